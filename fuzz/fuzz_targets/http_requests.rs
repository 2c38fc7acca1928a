//! Any target and host of an HTTP request to both servers: each has an answer that a client can use, and a
//! site of another name gets no document for people.
#![no_main]

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use proxier::model::Family;
use proxier::observe::metrics::fuzzing::{Answered, Answers};
use proxier::observe::metrics::{Document, Monitor, Options, Pages};

thread_local! {
    static ANSWERS: OnceCell<Answers> = const { OnceCell::new() };
}

fn answers() -> Answers {
    let monitor = Monitor::new(Options::new(vec![Family::V4, Family::V6]));
    monitor.set_mode("ipvs", "ipvs");
    let pages = Pages::new(|| "{}".to_owned(), "{}".to_owned()).with_site(
        |path| (path == "/fixed").then(|| Document::new("text/plain; charset=utf-8", "fixed")),
        |request| {
            let about = format!("{}?{}", request.path(), request.query());
            let answer = request.ask(&about);
            // There is no loop.
            assert!(answer.is_err());
            Some(Document::new("text/plain; charset=utf-8", about))
        },
    );
    Answers::new(&monitor, pages).expect("a runtime")
}

fuzz_target!(|text: &str| {
    let (target, host) = match text.split_once('\n') {
        Some((target, host)) => (target, Some(host)),
        None => (text, None),
    };
    ANSWERS.with(|answers_cell| {
        let answers = answers_cell.get_or_init(answers);
        for of_health in [false, true] {
            let Some(answer) = answers.answer(of_health, target, host) else {
                return;
            };
            check(&answer);
        }
    });
});

fn check(answer: &Answered) {
    assert!([200, 404, 421, 503].contains(&answer.status), "{answer:?}");
    let header = |name: &str| {
        let mut found = answer.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_slice())
    };
    assert_eq!(header("x-content-type-options"), Some(&b"nosniff"[..]));
    let content_type = header("content-type").expect("a content type");
    let body = std::str::from_utf8(&answer.body).expect("text");
    if content_type == b"application/json" {
        let value: Result<serde_json::Value, _> = serde_json::from_str(body);
        assert!(value.is_ok(), "{body}");
    }
}
