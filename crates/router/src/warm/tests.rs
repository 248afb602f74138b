use outboard_core::{provider::PriceModel, task::Timings};

use super::*;

const MS: u64 = 1;

/// Lets the time pass, millisecond by millisecond: what a worker was billed for, and what was waited for.
fn simulated(warmth: &Warmth, way: Warm, gap: u64, gaps: u32, task: u64) -> f64 {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
    let (start, keep_alive) = (ms(warmth.start), ms(warmth.keep_alive));
    let timeout = if let Warm::Longer(timeout) = way { ms(timeout) } else { ms(warmth.idle) };
    let (mut billed, mut waited) = (0, 0);
    // The first start is the same for all.
    for number in 0..=gaps {
        billed += task;
        let is_last = number == gaps;
        let (mut is_up, mut idle_since, mut busy_until) = (true, 0, 0);
        let until = if is_last { timeout } else { gap };
        let mut now = 0;
        while now < until {
            if is_up && now >= busy_until && now - idle_since >= timeout {
                match way {
                    Warm::KeepAlive if !is_last => (busy_until, idle_since) = (now + keep_alive, now + keep_alive),
                    _ => is_up = false,
                }
            }
            billed += u64::from(is_up) * MS;
            now += MS;
        }
        if !is_last {
            if !is_up {
                billed += start;
                waited += start;
            }
            let left = busy_until.saturating_sub(now);
            billed += left;
            waited += left;
        }
    }
    let hour = |amount: NanoUsd, ms: u64| amount.0 as f64 * ms as f64 / 3_600_000.0;
    let tasks = task * u64::from(gaps + 1);
    hour(warmth.per_hour, billed - tasks) + hour(warmth.value_of_time, waited)
}

#[test]
fn what_is_advised_is_what_costs_least_as_time_passes() {
    let seconds = Duration::from_secs;
    let mut advised = Vec::new();
    for (start, value) in [(3, 500_000_000), (30, 500_000_000), (30, 0), (30, 50_000_000_000)] {
        let warmth = Warmth {
            start: seconds(start),
            idle: seconds(5),
            keep_alive: Duration::from_millis(100),
            per_hour: NanoUsd(1_116_000_000),
            value_of_time: NanoUsd(value),
        };
        for gap in [2, 7, 20, 33, 40, 90, 900] {
            for gaps in [1, 20] {
                let ways = [Warm::LetGo, Warm::Longer(seconds(gap.max(5))), Warm::KeepAlive];
                let cost = |way: Warm| simulated(&warmth, way, gap * 1000, gaps, 2000);
                let least = ways.into_iter().map(cost).fold(f64::INFINITY, f64::min);
                let advice = warmth.advise(seconds(gap), gaps);
                // Whether a request is there just when a task comes is certain here, and a chance in the formula.
                let second = (warmth.per_hour.0 + value) as f64 / 3600.0;
                let slack = f64::from(gaps) * warmth.keep_alive.as_secs_f64() * second + 1.0;
                assert!(cost(advice) <= least + slack, "{start} {value} {gap} {gaps}: {advice:?}");
                advised.push(advice == Warm::LetGo);
            }
        }
    }
    assert!(advised.contains(&true) && advised.contains(&false));
}

#[test]
fn below_the_break_even_a_worker_is_kept_and_above_it_is_let_go() {
    let warmth = Warmth {
        start: Duration::from_secs(30),
        idle: Duration::from_secs(5),
        keep_alive: Duration::ZERO,
        per_hour: NanoUsd(1_000_000_000),
        value_of_time: NanoUsd(500_000_000),
    };
    let even = warmth.break_even().unwrap();
    assert_eq!(even, Duration::from_secs(50));
    let second = Duration::from_secs(1);
    assert_ne!(warmth.advise(even - second, 1000), Warm::LetGo);
    assert_eq!(warmth.advise(even + second, 1000), Warm::LetGo);
    assert_eq!(warmth.advise(second, 10), Warm::LetGo, "the idle time-out covers it");
    assert_eq!(Warmth { per_hour: NanoUsd::ZERO, ..warmth }.break_even(), None);
}

#[test]
fn the_docs_state_the_example() {
    let docs = include_str!("../../../../docs/cold-starts.md");
    let warmth = Warmth {
        start: Duration::from_secs(30),
        idle: Duration::from_secs(5),
        keep_alive: Duration::from_millis(100),
        per_hour: NanoUsd(1_116_000_000),
        value_of_time: NanoUsd(500_000_000),
    };
    let even = warmth.break_even().unwrap().as_secs_f64();
    assert!(docs.contains(&format!("{even:.0} s")), "{even}");
}

fn at_runpod() -> Warmth {
    Warmth {
        start: Duration::from_secs(30),
        idle: Duration::from_secs(5),
        keep_alive: KEEP_ALIVE,
        per_hour: NanoUsd(1_116_000_000),
        value_of_time: NanoUsd(500_000_000),
    }
}

/// One gap, millisecond by millisecond, with a worker that is kept until then by requests just before its idle time-out: what
/// was billed and waited for.
fn one_gap(warmth: &Warmth, until: Duration, gap: Duration) -> f64 {
    let [until, gap, idle, start] = [until, gap, warmth.idle, warmth.start].map(|time| time.as_millis() as u64);
    let (mut since, mut billed, mut ends) = (0, 0, None);
    for now in 0..gap.max(1) {
        if ends.is_none() && now - since >= idle {
            if now < until { since = now } else { ends = Some(now) }
        }
        billed += u64::from(ends.is_none()) * MS;
    }
    let waited = if ends.is_some() { start } else { 0 };
    let hour = |amount: NanoUsd, ms: u64| amount.0 as f64 * ms as f64 / 3_600_000.0;
    hour(warmth.per_hour, billed + waited) + hour(warmth.value_of_time, waited)
}

#[test]
fn what_nobody_foresaw_costs_at_most_twice_what_was_best() {
    let warmth = at_runpod();
    let (until, even) = (warmth.until(&[]), warmth.break_even().unwrap());
    assert_eq!(until, even);
    for gap in [1, 4, 6, 20, 40, 48, 49, 60, 300, 3000].map(Duration::from_secs) {
        let best = one_gap(&warmth, warmth.idle, gap).min(one_gap(&warmth, gap, gap));
        let ours = one_gap(&warmth, until, gap);
        // A worker that was asked just before it was given up stays for one more idle time-out.
        assert!(ours <= 2.0 * best * 1.001, "{gap:?}: {ours} against {best}");
        if gap <= even {
            assert!(ours <= best * 1.001, "{gap:?}: {ours} against {best}");
        }
    }
}

#[test]
fn what_was_seen_decides_and_is_no_dearer_than_either_habit() {
    let warmth = at_runpod();
    let seconds = |gaps: &[u64]| gaps.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
    for (seen, is_kept) in [
        (seconds(&[1, 1, 2, 1]), true),
        (seconds(&[1, 20, 1, 30, 25]), true),
        (seconds(&[90, 300, 1, 200]), false),
        (seconds(&[600, 2, 20, 700, 800]), false),
    ] {
        let until = warmth.until(&seen);
        assert_eq!(until > warmth.idle, is_kept, "{seen:?}");
        let all = |until| seen.iter().map(|gap| one_gap(&warmth, until, *gap)).sum::<f64>();
        let least = all(warmth.idle).min(all(warmth.break_even().unwrap()));
        assert!(all(until) <= least * 1.001, "{seen:?}");
    }
}

#[test]
fn it_is_said_in_words() {
    let warmth = at_runpod();
    let said = |gaps: &[f64]| {
        let gaps: Vec<_> = gaps.iter().copied().map(Duration::from_secs_f64).collect();
        warmth.between(&gaps, 3).to_string()
    };
    let kept = "the worker is kept warm for up to 48 s, for at most $0.0151";
    assert_eq!(
        said(&[]),
        format!("no gap was seen yet, nothing to do within the idle time-out of 5.0 s; in a longer one {kept}")
    );
    assert_eq!(
        said(&[0.4, 0.3]),
        format!("gaps of about 400 ms, nothing to do within the idle time-out of 5.0 s; in a longer one {kept}")
    );
    assert_eq!(said(&[20.0]), format!("gaps of about 20 s, longer than the idle time-out of 5.0 s: {kept}"));
    assert_eq!(
        said(&[90.0]),
        "gaps of about 90 s, not worth a worker beyond 48 s: it ends after its idle time-out of 5.0 s"
    );
    // Many gaps: a request each time costs more than one longer tail.
    let many = warmth.between(&[Duration::from_secs(6)], 2000).to_string();
    assert!(many.ends_with("; an idle time-out of 7s would do too"), "{many}");
}

#[test]
fn gaps_lie_between_the_end_of_a_task_and_the_beginning_of_the_next() {
    let ended = |at: u64, queue: f64, compute: f64| Observation {
        timings: Timings { queue, compute, ..Timings::default() },
        ..crate::fixture::observation(at, None)
    };
    let day = 86_400_000;
    // At once, 20 s later, a day later.
    let all = [ended(5_000, 0.0, 1.0), ended(40_000, 2.0, 8.0), ended(10_000, 0.0, 5.0), ended(day, 0.0, 1.0)];
    assert_eq!(gaps(&all), [Duration::from_secs(20)]);
    assert_eq!(median([3, 1, 2].map(Duration::from_secs).into_iter()), Some(Duration::from_secs(2)));
    assert_eq!(median(std::iter::empty()), None);
}

#[test]
fn only_workers_that_are_billed_while_they_wait_are_worth_a_thought() {
    let terms = crate::fixture::demand().terms;
    let paid = crate::fixture::paid("runpod");
    assert_eq!(Warmth::of(&paid, &terms), None, "it says nothing of an idle time-out");
    let price = PriceModel { idle: Duration::from_secs(5), ..paid.price.clone().unwrap() };
    let waits = Candidate { price: Ok(price), ..paid };
    let warmth = Warmth::of(&waits, &terms).unwrap();
    assert_eq!((warmth.idle, warmth.value_of_time), (Duration::from_secs(5), terms.value_of_time));
    let cheapest = Terms { policy: Policy::Cheapest, ..terms };
    assert_eq!(Warmth::of(&waits, &cheapest).unwrap().value_of_time, NanoUsd::ZERO);
}
