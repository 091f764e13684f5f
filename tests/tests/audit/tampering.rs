//! An operator who may do everything on the stream is found out.

use std::time::Duration;

use bulla_audit::{Entry, Event};
use bulla_sdk::RequestError;
use bulla_tests::Bus;

use super::{POLICY, Stored, client, codes, replace, stored, until, verify};

/// A log in which `front` was denied three times, and the line of its second denial.
async fn denied_thrice(bus: &Bus) -> (Vec<Stored>, String) {
    let front = client(bus, "front").await;
    for n in 0..3 {
        let subject = format!("secret.place-{n}");
        let error = front.request::<_, ()>(&subject, "x").await;
        assert!(matches!(error, Err(RequestError::Send(_))), "{error:?}");
        let entry = until(
            bus,
            "denial",
            |entry| matches!(&entry.event, Event::Decision(d) if d.subject == subject),
        );
        entry.await;
    }
    front.drain().await;
    // Its writer has said its last word: nothing of it comes into the stream that is put
    // in place of this one.
    drop(front);
    let tag = bus.workload("front").tag().to_string();
    let written = |all: &[Stored]| all.iter().filter(|s| s.subject.contains(&tag)).count();
    let mut all = stored(bus).await;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let later = stored(bus).await;
        let is_last = written(&later) == written(&all);
        all = later;
        if is_last {
            break;
        }
    }
    let line = all
        .iter()
        .flat_map(|stored| stored.payload.lines())
        .find(|line| line.contains("secret.place-1"))
        .unwrap()
        .to_owned();
    (all, line)
}

/// The stream again with another payload where `line` was.
fn without(all: &[Stored], line: &str, instead: Option<&str>) -> Vec<Stored> {
    let mut changed = Vec::new();
    for stored in all {
        let lines: Vec<&str> = stored
            .payload
            .lines()
            .filter_map(|own| if own == line { instead } else { Some(own) })
            .collect();
        if !lines.is_empty() {
            changed.push(Stored {
                subject: stored.subject.clone(),
                payload: lines.join("\n"),
            });
        }
    }
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_removes_alters_or_moves_is_found() {
    let bus = Bus::start(POLICY).await;
    let (all, line) = denied_thrice(&bus).await;
    let seq = Entry::decode(line.as_bytes()).unwrap().seq;
    assert_eq!(codes(&verify(&bus, &all, &[])), [""; 0]);

    let judge = async |contents: Vec<Stored>| {
        replace(&bus, &contents).await;
        let front = bus.workload("front").tag().to_string();
        let there: Vec<Stored> = stored(&bus).await;
        // The broker goes on with its own chain meanwhile, whose entries it repeats.
        let of_front: Vec<Stored> = there
            .into_iter()
            .filter(|stored| stored.subject.contains(&front))
            .collect();
        let report = verify(&bus, &of_front, &[]);
        let found = report
            .findings
            .into_iter()
            .filter(|f| f.fault.code() != "unproven_key");
        found.map(|f| (f.fault.code(), f.seq)).collect::<Vec<_>>()
    };
    assert_eq!(judge(without(&all, &line, None)).await, [("removed", seq)]);
    let other = line.replace("secret.place-1", "public.place");
    assert_eq!(
        judge(without(&all, &line, Some(&other))).await,
        [("altered", seq)]
    );
    let mut moved = without(&all, &line, None);
    moved.push(Stored {
        subject: all
            .iter()
            .find(|stored| stored.payload.contains(&line))
            .unwrap()
            .subject
            .clone(),
        payload: line.clone(),
    });
    assert_eq!(judge(moved).await, [("reordered", seq)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_was_cut_off_is_found_by_an_exported_head() {
    let bus = Bus::start(POLICY).await;
    let (all, line) = denied_thrice(&bus).await;
    let is_of_front = |line: &&str| {
        let entry = Entry::decode(line.as_bytes()).unwrap();
        let front = Entry::decode(
            all.iter()
                .find_map(|s| s.payload.lines().find(|l| l.contains("secret.place-1")))
                .unwrap()
                .as_bytes(),
        )
        .unwrap();
        entry.writer == front.writer
    };
    let lines: Vec<&str> = all
        .iter()
        .flat_map(|s| s.payload.lines())
        .filter(is_of_front)
        .collect();
    let key = lines
        .iter()
        .find(|line| line.contains("\"key\":{\"credential\""))
        .unwrap();
    let head = lines.last().unwrap();
    assert!(head.contains("\"head\""), "{head}");
    let cut: Vec<Stored> = all
        .iter()
        .map(|stored| Stored {
            subject: stored.subject.clone(),
            payload: stored
                .payload
                .lines()
                .filter(|own| {
                    let entry = Entry::decode(own.as_bytes()).unwrap();
                    let from = Entry::decode(line.as_bytes()).unwrap();
                    entry.writer != from.writer || entry.seq < from.seq
                })
                .collect::<Vec<_>>()
                .join("\n"),
        })
        .filter(|stored| !stored.payload.is_empty())
        .collect();
    assert_eq!(
        codes(&verify(&bus, &cut, &[])),
        [""; 0],
        "nothing shows it by itself"
    );
    assert_eq!(codes(&verify(&bus, &cut, &[key, head])), ["truncated"]);
    assert_eq!(codes(&verify(&bus, &all, &[key, head])), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_log_is_deleted_or_purged_by_jetstreams_own_means() {
    let bus = Bus::start(POLICY).await;
    let _front = client(&bus, "front").await;
    until(
        &bus,
        "start",
        |entry| matches!(&entry.event, Event::Start(start) if start.workload == "front"),
    )
    .await;
    let stream = super::stream(&bus).await;
    assert!(stream.delete_message(1).await.is_err());
    assert!(stream.purge().await.is_err());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!stored(&bus).await.is_empty());
}
