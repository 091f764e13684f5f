//! ENV-13, ENV-14: several messages under one leaf.

use bulla_envelope::{Draft, FrameMessage, ReplayWindow, SealError};

use crate::fixture::*;
use crate::oracle::{Parts, bin, refusal, string};

fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n as u8; n * 5]).collect()
}

fn messages(bodies: &[Vec<u8>]) -> Vec<FrameMessage<'_>> {
    bodies
        .iter()
        .enumerate()
        .map(|(n, body)| FrameMessage {
            id: id(n as u8),
            body,
        })
        .collect()
}

#[test]
fn frames_of_every_size_open() {
    let process = orders();
    let credential = process.verified();
    let to = subject("a");
    let draft = Draft::event(&to, NOW, after(30), b"");
    let sealer = process.sealer();
    let mut next = 0;
    for count in 1..=64 {
        let bodies = bodies(count);
        let sealed = sealer.seal_frame(&draft, &messages(&bodies)).unwrap();
        assert_eq!(sealed.sequence, next);
        let opened = open(&sealed, &credential, &expect_event("a"));
        assert_eq!(opened.message_count(), count);
        let mut window = ReplayWindow::new(Default::default(), SKEW);
        for (n, message) in opened.messages().enumerate() {
            assert_eq!(message.id, id(n as u8));
            assert_eq!(message.sequence, next + n as u64);
            assert_eq!(message.body, bodies[n]);
            window.commit(&opened, &message, NOW).unwrap();
            assert!(window.commit(&opened, &message, NOW).is_err());
        }
        next += count as u64;
    }
}

#[test]
fn only_events_without_reply_subject_share_a_frame() {
    let process = orders();
    let sealer = process.sealer();
    let (to, inbox) = (subject("a"), subject("_INBOX.x"));
    let bodies = bodies(65);
    let all = messages(&bodies);
    let mut event = Draft::event(&to, NOW, after(30), b"");
    assert_eq!(
        sealer.seal_frame(&event, &[]).unwrap_err().code(),
        "frame_size"
    );
    assert_eq!(
        sealer.seal_frame(&event, &all).unwrap_err().code(),
        "frame_size"
    );
    event.reply_to = Some(&inbox);
    assert!(sealer.seal_frame(&event, &all[..1]).is_ok());
    assert_eq!(
        sealer.seal_frame(&event, &all[..2]).unwrap_err(),
        SealError::NotFramable
    );
    let request = Draft::request(&to, &inbox, NOW, after(30), b"");
    assert_eq!(
        sealer.seal_frame(&request, &all[..2]).unwrap_err(),
        SealError::NotFramable
    );
    let with_body = Draft::event(&to, NOW, after(30), b"x");
    assert_eq!(
        sealer.seal_frame(&with_body, &all[..1]).unwrap_err(),
        SealError::NotFramable
    );
}

#[test]
fn broken_frames_are_refused() {
    let process = orders();
    let to = subject("a");
    let bodies = bodies(3);
    let draft = Draft::event(&to, NOW, after(30), b"");
    let sealed = process
        .sealer()
        .seal_frame(&draft, &messages(&bodies))
        .unwrap();
    let genuine = Parts::of(&sealed.bytes);
    assert_eq!(refusal(genuine.encode()), "accepted");
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = genuine.clone();
        change(&mut parts);
        refusal(parts.encode())
    };
    assert_eq!(changed(&|p| p.set(5, bin(&[0; 32]))), "frame_count");
    assert_eq!(changed(&|p| p.set(5, bin(&[0; 64]))), "frame_count");
    assert_eq!(changed(&|p| p.body[0] = 0x92), "frame_count");
    assert_eq!(changed(&|p| p.body.push(0xc0)), "trailing_bytes");
    assert_eq!(changed(&|p| p.body.truncate(p.body.len() - 1)), "truncated");
    assert_eq!(
        changed(&|p| p.body = vec![0xdc, 0, 3, 0xc4, 0, 0xc4, 0, 0xc4, 0]),
        "not_minimal"
    );
    assert_eq!(
        changed(&|p| p.body = vec![0x93, 0xc4, 0, 0xa0, 0xc4, 0]),
        "wrong_type"
    );
    assert_eq!(changed(&|p| p.body = b"plain".to_vec()), "wrong_type");
    assert_eq!(changed(&|p| p.set(9, string("_INBOX.x"))), "not_framable");
    // A frame's ids are bound: another order is another leaf.
    let mut parts = genuine.clone();
    let mut ids = parts.value(5).to_vec();
    ids[2..].rotate_left(16);
    parts.set(5, ids);
    let swapped = bulla_envelope::SealedEnvelope::decode(parts.encode()).unwrap();
    assert!(swapped.verify(&process.verified()).is_err());
}
