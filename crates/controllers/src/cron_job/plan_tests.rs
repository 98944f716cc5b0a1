use std::fmt::Write;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

const NOW: &str = "2025-01-01T12:07:00Z";

fn cron(spec: Value, status: Value) -> CronJob {
    let mut cron = json!({
        "metadata": {"name": "c", "namespace": "ns", "uid": "c", "creationTimestamp": "2025-01-01T12:01:00Z"},
        "spec": {"schedule": "*/5 * * * *", "timeZone": "UTC", "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 1, "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}},
        "status": status,
    });
    cron["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(cron).unwrap()
}

fn job(name: &str, ended: Option<&str>, minute: u8) -> Value {
    let conditions = ended.map(|ended| json!([{"type": ended, "status": "True"}]));
    let at = format!("2025-01-01T12:{minute:02}:00Z");
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {"template": {}},
        "status": {"startTime": at, "completionTime": at, "conditions": conditions}})
}

fn active(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name, "uid": name})).collect()
}

fn check(cron: &CronJob, jobs: Value, expected: Expect) {
    let jobs: Vec<Job> = serde_json::from_value(jobs).unwrap();
    let jobs: Vec<_> = jobs.into_iter().map(Arc::new).collect();
    let plan = plan(cron, &jobs, NOW.parse().unwrap());
    let mut text = String::new();
    for (what, jobs) in [("delete", &plan.delete), ("replace", &plan.replace)] {
        for job in jobs {
            writeln!(text, "{what} {}", name(job)).unwrap();
        }
    }
    if let Some((job, due)) = &plan.create {
        let stamp = &job.metadata.annotations.as_ref().unwrap()[SCHEDULED];
        writeln!(text, "create {} for {due} ({stamp})", name(job)).unwrap();
    }
    let running = plan.status.active.iter().flatten().filter_map(|r| r.name.as_deref());
    writeln!(text, "active {:?}", running.collect::<Vec<_>>()).unwrap();
    for (_, reason, message) in &plan.events {
        writeln!(text, "{reason}: {message}").unwrap();
    }
    writeln!(text, "again {:?}", plan.again.map(|d| d.as_secs())).unwrap();
    expected.assert_eq(&text);
}

#[test]
fn the_latest_missed_time_is_seen_to() {
    check(
        &cron(json!({}), json!({})),
        json!([]),
        expect![[r#"
        create c-28928885 for 2025-01-01T12:05:00Z (2025-01-01T12:05:00Z)
        active []
        again Some(180)
    "#]],
    );
    let done = json!({"lastScheduleTime": "2025-01-01T12:05:00Z"});
    check(
        &cron(json!({}), done),
        json!([]),
        expect![[r#"
        active []
        again Some(180)
    "#]],
    );
    check(
        &cron(json!({"startingDeadlineSeconds": 60}), json!({})),
        json!([]),
        expect![[r#"
        active []
        again Some(180)
    "#]],
    );
    check(
        &cron(json!({"timeZone": "Asia/Tokyo"}), json!({})),
        json!([]),
        expect![[r#"
        create c-28928885 for 2025-01-01T12:05:00Z (2025-01-01T21:05:00+09:00)
        active []
        again Some(180)
    "#]],
    );
    check(
        &cron(json!({"suspend": true}), json!({})),
        json!([]),
        expect![[r#"
        active []
        again None
    "#]],
    );
}

#[test]
fn many_missed_times_are_told_of() {
    let long_ago = json!({"lastScheduleTime": "2024-12-01T00:00:00Z"});
    check(
        &cron(json!({}), long_ago),
        json!([]),
        expect![[r#"
        create c-28928885 for 2025-01-01T12:05:00Z (2025-01-01T12:05:00Z)
        active []
        TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew
        again Some(180)
    "#]],
    );
}

#[test]
fn the_concurrency_policy_is_kept() {
    let running = json!([job("old", None, 0)]);
    let status = json!({"active": active(&["old"])});
    check(
        &cron(json!({"concurrencyPolicy": "Forbid"}), status.clone()),
        running.clone(),
        expect![[r#"
        active ["old"]
        JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid
        again Some(180)
    "#]],
    );
    check(
        &cron(json!({"concurrencyPolicy": "Replace"}), status),
        running,
        expect![[r#"
        replace old
        create c-28928885 for 2025-01-01T12:05:00Z (2025-01-01T12:05:00Z)
        active ["old"]
        again Some(180)
    "#]],
    );
}

#[test]
fn history_is_kept_short_and_missing_jobs_are_told_of() {
    let jobs = json!([
        job("s1", Some("Complete"), 1),
        job("s2", Some("Complete"), 2),
        job("f1", Some("Failed"), 3),
        job("r", None, 4),
    ]);
    let status = json!({"active": active(&["s2", "gone"]), "lastScheduleTime": "2025-01-01T12:05:00Z"});
    check(
        &cron(json!({}), status),
        jobs,
        expect![[r#"
        delete s1
        active []
        SawCompletedJob: Saw completed job: s2, condition: Complete
        UnexpectedJob: Saw a job that the controller did not create or forgot: r
        MissingJob: Active job went missing: gone
        again Some(180)
    "#]],
    );
}
