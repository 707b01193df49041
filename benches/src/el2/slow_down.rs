//! How much slower a stock guest is with the hypervisor below it while nobody debugs.

use anyhow::Result;

use super::Bench;
use super::computer::{Below, Computer, Contents, Spent};
use crate::report::{Bar, Figure};
use crate::rounds::Measured;
use crate::stats::median;

/// Processors of the guest.
const CPUS: u32 = 2;
/// The computers that are compared.
const KINDS: [Below; 3] = [Below::Hypervisor, Below::Nothing, Below::NoEl2];

/// A piece of work that the guest does.
struct Work {
    title: &'static str,
    /// What `init.sh` is told.
    command: &'static str,
    bar: Bar,
    /// Whether it is the same work whenever QEMU's timers fire.
    has_own_pace: bool,
}

const WORK: [Work; 4] = [
    Work {
        title: "arithmetic (awk)",
        command: "compute 100000",
        bar: Bar::AtMost(1.02),
        has_own_pace: true,
    },
    Work {
        title: "system calls (dd, a byte at a time)",
        command: "make_system_calls 50000",
        bar: Bar::AtMost(1.10),
        has_own_pace: true,
    },
    Work {
        title: "interrupts between processors (ping-pong)",
        command: "ping_pong 1000",
        bar: Bar::AtMost(1.10),
        has_own_pace: true,
    },
    Work {
        title: "timer interrupts (arithmetic beside a process that sleeps for 50 µs at a time)",
        command: "compute_beside_sleeper 30000000",
        bar: Bar::AtMost(1.10),
        has_own_pace: false,
    },
];

/// What each kind of computer took, in the order of the rounds.
type Taken<const N: usize> = [Vec<Spent>; N];

pub(super) fn measure_work(bench: &Bench) -> Result<Vec<Figure>> {
    let [hypervisor, nothing, no_el2] =
        KINDS.map(|below| Computer::start_stock(bench, below, CPUS));
    let mut computers = [hypervisor?, nothing?, no_el2?];
    let mut figures = Vec::new();
    for work in WORK.iter().filter(|work| work.has_own_pace) {
        // QEMU translates what it has not seen before.
        for computer in &mut computers {
            computer.work(work.command)?;
        }
        let taken = in_turns(bench.rounds * 2, &mut computers, |computer| {
            computer.work(work.command)
        })?;
        let [with, without, _] = taken.each_ref().map(|spent| {
            let rates = spent.iter().map(|spent| spent.interrupts / spent.seconds);
            median(&rates.collect::<Vec<_>>())
        });
        let note = format!(
            "interrupts that the guest took in a second: {with:.0} with the hypervisor, {without:.0} without"
        );
        figures.push(figure(work.title, &taken, Some(work.bar)).note(note));
    }
    Ok(figures)
}

/// Measures by instructions: those of the hypervisor are all that is added.
pub(super) fn measure_instructions(bench: &Bench) -> Result<Vec<Figure>> {
    let start = |below| Computer::start_counting(bench, below, CPUS);
    let mut computers = [start(Below::Hypervisor)?, start(Below::Nothing)?];
    let boot = computers.each_ref().map(|computer| {
        vec![Spent {
            counter_ns: computer.boot_ns,
            ..Spent::default()
        }]
    });
    let boot = by_counter(&boot);
    let [with, without] = &boot;
    let title = "instructions: boot to the first process";
    let figure = Figure::new(title, "10^6").values(&boot);
    let mut figures = vec![figure.compare(with, without)];
    for work in WORK {
        let taken = in_turns(bench.rounds, &mut computers, |computer| {
            computer.work(work.command)
        })?;
        let measured = by_counter(&taken);
        let [with, without] = &measured;
        let rate = taken.each_ref().map(|spent| {
            let rates = spent
                .iter()
                .map(|spent| spent.interrupts / spent.counter_ns * 1e6);
            median(&rates.collect::<Vec<_>>())
        });
        let figure = Figure::new(format!("instructions: {}", work.title), "10^6")
            .values(&measured)
            .ratio(with, without, work.bar)
            .note(format!(
                "interrupts that the guest took in a million of instructions: {:.2} with the hypervisor, {:.2} \
                 without",
                rate[0], rate[1]
            ));
        figures.push(figure);
    }
    Ok(figures)
}

pub(super) fn measure_boot(bench: &Bench) -> Result<Vec<Figure>> {
    let taken = in_turns(bench.rounds, &mut KINDS.clone(), |below| {
        Computer::start(bench, *below, Contents::Stock, CPUS)?.boot()
    })?;
    let figure = figure("boot, QEMU's start to the first process", &taken, None);
    Ok(vec![figure])
}

/// Measures all in each round; who is first changes.
fn in_turns<T, const N: usize>(
    rounds: u32,
    all: &mut [T; N],
    mut measure: impl FnMut(&mut T) -> Result<Spent>,
) -> Result<Taken<N>> {
    let mut taken = core::array::from_fn(|_| Vec::new());
    let mut order: Vec<_> = all.iter_mut().zip(&mut taken).collect();
    for _ in 0..rounds {
        for (one, spent) in &mut order {
            spent.push(measure(one)?);
        }
        order.rotate_left(1);
    }
    Ok(taken)
}

fn figure(title: &str, taken: &Taken<{ KINDS.len() }>, bar: Option<Bar>) -> Figure {
    let clock = ["hypervisor", "without", "no EL2"];
    let clock = measured(clock, taken, |spent| spent.seconds * 1e3);
    let processor = ["hypervisor, CPU", "without, CPU", "no EL2, CPU"];
    let processor = measured(processor, taken, |spent| spent.processor_seconds * 1e3);
    let mut figure = Figure::new(title, "ms").values(&clock).values(&processor);
    for [with, without, _] in [&clock, &processor] {
        figure = match bar {
            Some(bar) => figure.ratio(with, without, bar),
            None => figure.compare(with, without),
        };
    }
    let [with, _, no_el2] = &processor;
    figure.compare(with, no_el2)
}

fn by_counter(taken: &Taken<2>) -> [Measured; 2] {
    measured(["hypervisor", "without"], taken, |spent| {
        spent.counter_ns / 1e6
    })
}

fn measured<const N: usize>(
    names: [&'static str; N],
    taken: &Taken<N>,
    of: fn(&Spent) -> f64,
) -> [Measured; N] {
    let mut names = names.into_iter();
    taken.each_ref().map(|spent| {
        let values: Vec<f64> = spent.iter().map(of).collect();
        Measured {
            name: names.next().unwrap_or_default(),
            samples: values.clone(),
            rounds: values,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_first_changes() {
        let mut order = String::new();
        let taken = in_turns(3, &mut ['a', 'b', 'c'], |who| {
            order.push(*who);
            Ok(Spent {
                seconds: f64::from(u32::from(*who)),
                ..Spent::default()
            })
        });
        assert_eq!(order, "abcbcacab");
        for (spent, who) in taken.unwrap().iter().zip(['a', 'b', 'c']) {
            let expected = f64::from(u32::from(who));
            assert!(
                spent
                    .iter()
                    .all(|spent| (spent.seconds - expected).abs() < 0.1)
            );
            assert_eq!(spent.len(), 3);
        }
    }
}
