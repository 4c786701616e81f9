//! What is held of texts, by what is known of functions.

use super::*;

/// A database with a function that sets a parameter for the transaction.
fn routines() -> Routines {
    let routines = Routines::new(Duration::from_mins(1));
    let shifts = Effects {
        shifts: true,
        ..Effects::default()
    };
    let name = digest(b"f");
    *routines.known.write() = Arc::new(Known {
        effects: std::iter::once((name, shifts)).collect(),
        any: shifts,
        names: std::iter::once(name).collect(),
        ..Known::default()
    });
    routines.freshness.store(FRESH, Ordering::Relaxed);
    routines
}

fn judged(routines: &Routines, text: &str) -> Verdict {
    let facts = crate::postgres::statement::scan(text.as_bytes());
    routines.judge(Case {
        text: text.as_bytes(),
        several: facts.several,
        defines: facts.defines,
        apart: false,
        loose: facts.loose,
        presumes: facts.presumes_in_block,
    })
}

#[tokio::test]
async fn what_is_only_called_is_not_defined() {
    let routines = routines();
    for text in ["call f()", "CALL f(1);", "select f()"] {
        let verdict = judged(&routines, text);
        assert!(verdict.effects.shifts && !verdict.redefines, "{text}");
    }
    for text in [
        "create view v as select f()",
        "call f(); create view v as select f()",
        "do $$ begin execute 'create view v as select f()'; end $$",
        "create function g() returns int language sql as 'select 1'",
    ] {
        assert!(judged(&routines, text).redefines, "{text}");
    }
}

#[tokio::test]
async fn a_block_that_puts_texts_together_may_call_any_function() {
    let routines = routines();
    let loose = "do $$ begin execute 'select ' || name || '()'; end $$";
    assert!(judged(&routines, loose).effects.shifts);
    assert!(
        !judged(&routines, "do $$ begin perform 1; end $$")
            .effects
            .shifts
    );
}
