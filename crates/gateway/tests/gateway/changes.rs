//! Changes of preferences, webhooks and alerts, while another gateway changes the same user.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use wire::topics::SUBSCRIPTIONS;

use crate::support::{World, ask, settings};

/// Without the fix, an answer waited for content that had been overwritten: 503 after 10 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_overwritten_by_another_gateway_is_answered() {
    let world = Arc::new(World::new());
    let running = world.gateway(settings()).await;

    // The other gateway overwrites each change within a millisecond.
    let stop = Arc::new(AtomicBool::new(false));
    let other = {
        let (world, stop) = (world.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Acquire) {
                let key = "501/preferences";
                world.put(SUBSCRIPTIONS, key, br#"{"stream":[],"webhook":[]}"#);
                world.put_beside(SUBSCRIPTIONS, key, "501/alert/a", None);
                std::thread::sleep(Duration::from_micros(100));
            }
        })
    };

    for _ in 0..10 {
        let path = "/v1/users/501/preferences";
        let wanted = json!({ "stream": ["order-filled"], "webhook": null });
        let body = wanted.to_string();
        let (status, answer) = ask(running.address, Method::PUT, path, &[], &body).await;
        assert_eq!((status, answer), (200, wanted));

        let path = "/v1/users/501/alerts/a";
        let body = json!({ "symbol": "AAPL", "above": "190.00" }).to_string();
        let (status, answer) = ask(running.address, Method::PUT, path, &[], &body).await;
        assert!(status == 201 || status == 200, "{status} {answer}");
        assert_eq!(answer["above"], "190.00", "the alert of this request");
    }

    stop.store(true, Ordering::Release);
    other.join().expect("the other gateway ends");
    running.stop().await;
}
