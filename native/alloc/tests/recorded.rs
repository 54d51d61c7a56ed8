//! Cases with the answers that kube-scheduler's own allocator gave, recorded by the differential tests.

use nvdra_alloc::cases::answer;
use nvdra_alloc::quantity::Quantity;
use serde_json::{Value, json};

const CASES: &str = include_str!("recorded.jsonl");

#[test]
fn answers_are_those_of_the_scheduler() {
    let mut number = 0;
    for line in CASES.lines() {
        let recorded: Value = serde_json::from_str(line).expect("a recorded line is JSON");
        let case = &recorded["case"];
        let ours = answer(&case.to_string());
        let theirs = normal(recorded["answer"].clone());
        assert_eq!(normal(ours), theirs, "case {}", case["id"]);
        number += 1;
    }
    assert!(number > 200, "only {number} cases were read");
}

#[test]
fn input_that_is_no_case_is_an_error() {
    for line in [
        "",
        "{",
        "[]",
        r#"{"kind":"allocate","nodes":["n"]}"#,
        r#"{"kind":"other"}"#,
    ] {
        assert!(answer(line).get("error").is_some(), "{line}");
    }
}

#[test]
fn unknown_fields_and_features_are_named() {
    let field = r#"{"kind":"allocate","objects":{"resourceSlices":[{"metadata":{"name":"s"},"spec":{"driver":"d","pool":{"name":"p"},"future":1}}]}}"#;
    assert!(
        answer(field)["error"]
            .as_str()
            .expect("an error")
            .contains("future")
    );
    let feature = r#"{"kind":"allocate","features":{"Future":true}}"#;
    assert!(
        answer(feature)["error"]
            .as_str()
            .expect("an error")
            .contains("feature Future is not known")
    );
}

#[test]
fn hostile_expressions_end_with_an_error() {
    let deep = "(".repeat(5000) + &")".repeat(5000);
    let long = format!("'{}' == 'x'", "a".repeat(10 * 1024));
    let costly =
        "[0,1,2,3,4,5,6,7,8,9].all(a, lists.range(1000).all(b, lists.range(1000).all(c, c >= 0)))";
    let devices = json!([{"driver": "d"}]);
    for expression in [
        deep.as_str(),
        &long,
        costly,
        "\u{0}",
        "'\\",
        "1..",
        "a.?",
        "[?",
        "{?a",
        "-9223372036854775809",
    ] {
        let case = json!({"kind": "cel", "expression": expression, "devices": devices});
        let answered = answer(&case.to_string());
        let failed = ["error", "compileError", "unsupported"]
            .iter()
            .any(|key| answered.get(key).is_some())
            || answered["devices"][0].get("error").is_some();
        assert!(failed, "{answered}");
    }
}

/// Pieces that random mutations put into cases.
const PIECES: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    ",",
    "?",
    "!",
    "-",
    "'",
    "\\\"",
    "0",
    "9223372036854775808",
    "1e999",
    "%",
    "é",
    "\\u0000",
    "null",
    "true",
    ".all(x, ",
    ".map(x, ",
    "device",
    "duration('1h')",
    "ip('::1')",
    "&&",
    "in",
];

#[test]
fn mutated_cases_never_panic() {
    let lines: Vec<&str> = CASES.lines().collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    for round in 0..20_000 {
        let recorded: Value = serde_json::from_str(lines[round % lines.len()]).expect("JSON");
        let mut case = recorded["case"].to_string();
        for _ in 0..=random(4) {
            let at = (0..=random(case.len()))
                .rev()
                .find(|i| case.is_char_boundary(*i))
                .unwrap_or(0);
            match random(3) {
                0 => case.insert_str(at, PIECES[random(PIECES.len())]),
                1 if at < case.len() => drop(case.remove(at)),
                _ => {
                    let to = (at..=case.len())
                        .find(|i| *i > at + random(6) && case.is_char_boundary(*i));
                    case.replace_range(at..to.unwrap_or(case.len()), PIECES[random(PIECES.len())]);
                }
            }
        }
        // A search without an end is cut off by the case itself.
        let case = case.replacen("{", "{\"timeoutMs\":50,", 1);
        std::hint::black_box(answer(&case));
        if std::time::Instant::now() > end {
            break;
        }
    }
}

/// The parts of an answer that are compared: texts of CEL errors and steps of failed attempts are not.
fn normal(mut answer: Value) -> Value {
    for node in answer["nodes"].as_array_mut().into_iter().flatten() {
        let failed = node["outcome"] == "error" || node["outcome"] == "nodeError";
        if failed {
            node["steps"] = Value::Null;
        }
        if let Some(text) = node["error"].as_str() {
            let ends = [
                "CEL runtime error",
                "CEL compile error",
                "failed to perform node selection for device",
                "failed to parse node selector",
            ];
            let end = ends
                .iter()
                .filter_map(|part| text.find(part))
                .min()
                .unwrap_or(text.len());
            node["error"] = text[..end].into();
        }
        for result in node["results"].as_array_mut().into_iter().flatten() {
            for device in result["devices"]["results"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                for amount in device["consumedCapacity"]
                    .as_object_mut()
                    .into_iter()
                    .flat_map(|m| m.values_mut())
                {
                    let quantity =
                        Quantity::parse(amount.as_str().unwrap_or("")).expect("a quantity");
                    *amount = quantity.nanos().to_string().into();
                }
            }
        }
    }
    if answer.get("compileError").is_some() {
        answer["compileError"] = true.into();
    }
    for device in answer["devices"].as_array_mut().into_iter().flatten() {
        if device.get("error").is_some() {
            *device = json!({"error": true});
        }
    }
    let has_nodes = !answer["nodes"].is_null();
    if let Some(answer) = answer.as_object_mut().filter(|_| !has_nodes) {
        answer.remove("nodes");
    }
    answer
}
