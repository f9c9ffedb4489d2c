//! Promises of an agent to whoever sends it waves, without VMs: what a host has of an experiment is nothing, or refused.
#![allow(clippy::unwrap_used)]

mod support;

use fleet_proto::v1::{
    ActRequest, Action, KsmRequest, ListRequest, Outcome, Probe, ProveRequest, Range, SnapshotsRequest, reply, task,
};
use support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_older_generation_is_refused_also_after_a_restart_and_a_removal() {
    let place = Place::new();
    let host = place.start().await;
    let spec = spec("a", 0);
    let said = host.apply(3, &spec, false).await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Ok, vec![]), "{said:?}");
    assert_eq!(host.held().await, [("a".to_owned(), 3)]);
    let refused = |said: Said| {
        assert_eq!((said.outcome, said.targets()), (Outcome::Failed, vec![]), "{said:?}");
        assert!(said.reason.contains("generation 2") && said.reason.contains('3'), "{}", said.reason);
    };
    refused(host.apply(2, &spec, false).await);
    refused(host.remove(2, "a").await);
    host.end().await;

    let host = place.start().await;
    assert_eq!(host.held().await, [("a".to_owned(), 3)], "it is found again");
    refused(host.apply(2, &spec, false).await);
    assert_eq!(host.apply(3, &spec, false).await.outcome, Outcome::Ok, "the same one may come again");
    let said = host.remove(4, "a").await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Ok, vec![(Outcome::Ok, 1, "(network)")]), "{said:?}");
    assert_eq!(host.held().await, []);
    host.end().await;

    let host = place.start().await;
    let said = host.apply(3, &spec, false).await;
    assert_eq!(said.outcome, Outcome::Failed, "what was delayed does not bring it back: {said:?}");
    assert_eq!(host.held().await, []);
    assert_eq!(host.apply(5, &spec, false).await.outcome, Outcome::Ok);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_touches_nothing_and_is_no_generation_that_was_acted_on() {
    let place = Place::new();
    let host = place.start().await;
    // There is no image for the VM that falls on this host.
    let said = host.apply(7, &spec("a", 1), false).await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Failed, vec![]), "{said:?}");
    assert!(said.reason.contains("image"), "{}", said.reason);
    assert_eq!(host.held().await, [], "it leaves no trace");
    assert_eq!(host.apply(6, &spec("a", 0), false).await.outcome, Outcome::Ok);
    let said = host.apply(7, &spec("a", 1), false).await;
    assert_eq!(said.outcome, Outcome::Failed);
    assert_eq!(host.held().await, [("a".to_owned(), 6)], "it has what it had");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_change_and_leaves_no_trace() {
    let place = Place::new();
    let host = place.start().await;
    let said = host.apply(3, &spec("a", 0), true).await;
    assert_eq!(said.outcome, Outcome::Ok, "{said:?}");
    let said_difference = |reply: &fleet_proto::v1::Reply| matches!(&reply.reply, Some(reply::Reply::Difference(_)));
    assert_eq!(said.replies.iter().filter(|reply| said_difference(reply)).count(), 1);
    assert_eq!(host.held().await, []);
    assert_eq!(host.apply(2, &spec("a", 0), false).await.outcome, Outcome::Ok, "nothing was acted on");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ranges_and_probes_of_a_whole_experiment_a_host_does_its_own() {
    let place = Place::new();
    let host = place.start().await;
    assert_eq!(host.apply(1, &spec("a", 0), false).await.outcome, Outcome::Ok);
    let act = |group: &str| ActRequest {
        op: None,
        experiment: "a".into(),
        ranges: vec![Range { group: group.into(), first: 0, count: 4 }],
        action: Action::Stop.into(),
        force: false,
        name: String::new(),
    };
    let said = host.ask(0, task::Task::Act(act("web")), Vec::new()).await;
    assert_eq!((said.outcome, said.targets()), (Outcome::Ok, vec![]), "all four are elsewhere: {said:?}");
    let said = host.ask(0, task::Task::Act(act("db")), Vec::new()).await;
    assert_eq!(said.outcome, Outcome::Failed, "{said:?}");
    assert!(said.reason.contains("db"), "{}", said.reason);

    let probes = vec![Probe { from: "web[2]".into(), to: vec!["192.0.2.7".into()] }];
    let prove = ProveRequest { experiment: "a".into(), probes, timeout_ms: 100, attempts: 1 };
    let said = host.ask(0, task::Task::Prove(prove), Vec::new()).await;
    assert_eq!(said.outcome, Outcome::Ok);
    for reply in said.replies {
        assert!(matches!(reply.reply, Some(reply::Reply::Prove(prove)) if prove.results.is_empty()));
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_asked_is_answered_by_name() {
    let place = Place::new();
    let host = place.start().await;
    for name in ["a", "b"] {
        assert_eq!(host.apply(1, &spec(name, 0), false).await.outcome, Outcome::Ok);
    }
    let listed = async |request: ListRequest| {
        let said = host.ask(0, task::Task::List(request), Vec::new()).await;
        assert_eq!(said.outcome, Outcome::Ok);
        let chunks = said.replies.into_iter().filter_map(|reply| match reply.reply {
            Some(reply::Reply::List(chunk)) => Some(chunk.experiments),
            _ => None,
        });
        chunks.flatten().map(|experiment| experiment.experiment).collect::<Vec<_>>()
    };
    assert_eq!(listed(ListRequest::default()).await, ["a", "b"]);
    assert_eq!(listed(ListRequest { experiment: "b".into(), ..ListRequest::default() }).await, ["b"]);

    let said = host.ask(0, task::Task::Ksm(KsmRequest { dry_run: false }), Vec::new()).await;
    let ksm = said.replies.iter().find_map(|reply| match &reply.reply {
        Some(reply::Reply::Ksm(ksm)) => Some(ksm.hosts.iter().map(|of| of.host.as_str()).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(ksm.unwrap(), [HOST]);

    let said = host.ask(0, task::Task::Snapshots(SnapshotsRequest::default()), Vec::new()).await;
    assert_eq!(said.outcome, Outcome::Ok);
    assert!(said.replies.iter().any(|reply| matches!(&reply.reply, Some(reply::Reply::Snapshots(_)))));
    assert_eq!(host.info().await.name, HOST);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_experiment_that_comes_back_right_behind_its_removal_is_known() {
    let place = Place::new();
    let host = place.start().await;
    let spec = spec("a", 0);
    assert_eq!(host.apply(1, &spec, false).await.outcome, Outcome::Ok);
    for round in 1..20 {
        let (removed, applied) = tokio::join!(host.remove(2 * round, "a"), host.apply(2 * round + 1, &spec, false));
        assert_eq!(applied.outcome, Outcome::Ok, "{applied:?}");
        // It comes first, or its turn comes when something newer was done.
        assert!(removed.outcome == Outcome::Ok || removed.reason.contains("generation"), "{removed:?}");
        assert_eq!(host.held().await, [("a".to_owned(), 2 * round + 1)]);
    }
    host.end().await;
}
