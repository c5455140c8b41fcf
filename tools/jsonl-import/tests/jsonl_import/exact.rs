//! What JSON holds comes through to the letter, or is refused.

use super::tool;
use workspace_tests::{run, text};

#[test]
fn a_key_that_a_message_holds_twice_is_refused() {
    let message = r#"{"role":"user","role":"assistant","content":"x"}"#;
    for (input, place) in [
        (format!(r#"{{"messages":[{message}]}}"#), "1: messages[0]"),
        (
            format!(r#"[{{"a":{{}},"conversations":[{{}},{message}]}}]"#),
            "row 1: conversations[1]",
        ),
    ] {
        let got = run(&mut tool(), &input);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert_eq!(text(&got.stdout), "");
        let want = format!("<stdin>:{place}: key \"role\" is there twice at column ");
        assert!(said.contains(&want), "{said}");
    }
}

#[test]
fn an_integer_beyond_64_bits_is_refused_not_rounded() {
    let flags = ["--user", "{{ id }}", "--assistant", "{{ a }}"];
    let huge = r#"{"id":12345678901234567890123,"a":"y"}"#;
    for (input, place) in [
        (format!("{}\n{huge}\n", r#"{"id":-0,"a":"y"}"#), "2"),
        (format!("[{huge}]"), "row 1"),
    ] {
        let got = run(tool().args(flags), &input);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        let want = format!("<stdin>:{place}: \"id\" is 12345678901234567890123, an integer beyond");
        assert!(said.contains(&want) && said.contains("quote it"), "{said}");
    }
    let got = run(tool().args(flags), r#"{"id":-0,"a":18446744073709551615}"#);
    let want = r#"{"messages":[{"role":"user","content":"0"},{"role":"assistant","content":"18446744073709551615"}]}"#;
    assert_eq!(text(&got.stdout), format!("{want}\n"));
}

#[test]
fn a_decimal_that_would_be_rounded_is_refused() {
    let flags = ["--user", "{{ q }}", "--assistant", "{{ amount }}"];
    let got = run(
        tool().args(flags),
        r#"{"q":"x","amount":12345678901234567.89}"#,
    );
    let said = text(&got.stderr);
    assert_eq!(got.status.code(), Some(2), "{said}");
    let want =
        "<stdin>:1: \"amount\" is 12345678901234567.89, a decimal of more digits than are kept";
    assert!(said.contains(want) && said.contains("quote it"), "{said}");
    let got = run(tool().args(flags), r#"{"q":"x","amount":1.10}"#);
    assert!(
        text(&got.stdout).contains(r#""content":"1.1""#),
        "{}",
        text(&got.stdout)
    );
}

#[test]
fn a_call_written_as_text_is_read_as_exactly_as_a_column() {
    let line = |arguments: &str| {
        let call = format!(r#"{{\"name\":\"w\",\"arguments\":{{{arguments}}}}}"#);
        format!(
            r#"{{"conversations":[{{"from":"human","value":"q"}},{{"from":"function_call","value":"{call}"}}]}}"#
        )
    };
    for (arguments, want) in [
        (
            r#"\"iban\":123456789012345678901234"#,
            "conversations[1].value.arguments.iban is 123456789012345678901234, an integer beyond",
        ),
        (
            r#"\"a\":1,\"a\":2"#,
            "conversations[1].value.arguments: key \"a\" is there twice\n",
        ),
        (r#"\"a\":["#, "conversations[1].value holds no JSON: "),
    ] {
        let got = run(&mut tool(), &line(arguments));
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("<stdin>:1: {want}")), "{said}");
    }
    let got = run(&mut tool(), &line(r#"\"z\":-0"#));
    assert!(text(&got.stdout).contains(r#""arguments":"{\"z\":0}""#));
    let tools = r#"{"prompt":"q","completion":"a","tools":"[{\"n\":123456789012345678901}]"}"#;
    let said = run(&mut tool(), tools).stderr;
    assert!(text(&said).contains("<stdin>:1: tools[0].n is 123456789012345678901, an integer"));
}
