//! The one place where the SDK asks which process it runs in. It is asked anew for
//! every batch and never remembered: a process that was forked must notice it.

#[cfg(not(test))]
pub(crate) use std::process::id;

#[cfg(test)]
pub(crate) use tests::id;

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        static FORKED: Cell<bool> = const { Cell::new(false) };
    }

    /// The process; after [`fork`] another one.
    pub(crate) fn id() -> u32 {
        std::process::id() ^ u32::from(FORKED.get())
    }

    /// Makes the test of this thread go on as a copy of its process does: with all that
    /// the process had, and another id.
    pub(crate) fn fork() {
        FORKED.set(!FORKED.get());
    }

    #[cfg(feature = "testing")]
    mod forked {
        use std::time::Duration;

        use super::fork;
        use crate::testing::TestBus;
        use crate::{Client, Message, PublishError, SendError, ServiceError};

        const POLICY: &str = r#"
            version = 1
            trust_domain = "acme.example"
            [workload.front]
            attest = [{ nkey = "@front@" }]
            [workload.back]
            attest = [{ nkey = "@back@" }]
            [subject."secret.>"]
            protect = "encrypted"
            [subject."secret.coded"]
            replies = "mac"
            [[allow]]
            id = "speaks"
            who = ["front"]
            may = ["publish", "request"]
            on = ["secret.told", "secret.asked", "secret.coded"]
            [[allow]]
            id = "listens"
            who = ["back"]
            may = ["subscribe"]
            on = ["secret.told"]
            [[allow]]
            id = "answers"
            who = ["back"]
            may = ["serve"]
            on = ["secret.asked", "secret.coded"]
        "#;

        /// What asks a service to go on as a copy of its process.
        const FORKS: u32 = 2;

        fn is_forked(error: &PublishError) -> bool {
            let PublishError::Send(SendError::Seal(error)) = error else {
                return false;
            };
            error.code() == "nonces_forked"
        }

        /// Lets the sealing task find nothing to do.
        async fn settle(client: &Client) {
            let _ = client.flush().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        /// A copy of the process has its keys, and would count the same nonces.
        #[tokio::test]
        async fn a_copy_of_the_process_seals_nothing_under_its_keys() {
            let bus = TestBus::start(POLICY).unwrap();
            let front = bus.client("front").await.unwrap();
            let back = bus.client("back").await.unwrap();
            let mut told = back.subscribe("secret.told").await.unwrap();
            let mut services = Vec::new();
            for subject in ["secret.asked", "secret.coded"] {
                let answer = async |asked: Message<u32>| {
                    if *asked.payload() == FORKS {
                        fork();
                    }
                    Ok::<_, ServiceError>(1u32)
                };
                services.push(back.serve(subject, answer).await.unwrap());
            }
            front.publish("secret.told", "before").await.unwrap();
            assert!(told.next().await.is_some());
            for subject in ["secret.asked", "secret.coded"] {
                let _: u32 = front.request(subject, &1u32).await.unwrap();
            }
            settle(&front).await;

            fork();
            // Sealed by its own task, and then by the sealing task.
            let error = front.publish("secret.told", "inline").await.unwrap_err();
            assert!(is_forked(&error), "{error:?}");
            front.publish("secret.told", "queued").await.unwrap();
            let lost = front.flush().await.unwrap_err();
            assert!(format!("{lost:?}").contains("Unsent"), "{lost:?}");

            // Keys that it makes itself are its own.
            bus.advance(Duration::from_secs(601)).await;
            front.publish("secret.told", "after").await.unwrap();
            let message = told.next().await.unwrap();
            assert_eq!(message.decode::<String>().unwrap(), "after");
            for subject in ["secret.asked", "secret.coded"] {
                let _: u32 = front.request(subject, &1u32).await.unwrap();
            }

            // Nor does who answers, with a signature or a code.
            for subject in ["secret.asked", "secret.coded"] {
                let asked = front.request::<_, u32>(subject, &FORKS).await;
                assert!(asked.is_err(), "{subject}");
                fork();
            }
        }
    }
}
