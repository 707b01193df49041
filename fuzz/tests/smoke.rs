//! Every target over its seeds and over mutations of them, for a fixed number of runs, so that the
//! same inputs are tried every time.

use std::fs;
use std::path::Path;

const RUNS_PER_TARGET: u64 = 40_000;
const MAX_LEN_BYTES: usize = 4096;

#[test]
fn targets_hold_over_mutated_seeds() {
    for &(name, target) in trapline_fuzz::TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "seeds/{name} is empty");
        seeds.iter().for_each(|seed| target(seed));
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let is_slow = trapline_fuzz::SLOW.contains(&name);
        let runs = RUNS_PER_TARGET / if is_slow { 40 } else { 1 };
        for run in 0..runs {
            let input = mutated(&seeds, &mut random);
            let result = std::panic::catch_unwind(|| target(&input));
            assert!(
                result.is_ok(),
                "{name}, run {run}: {}",
                input.escape_ascii()
            );
        }
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(name);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    // The order of a folder differs between machines.
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Changes a seed in one to eight places.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        match random.below(6) {
            0 if at < input.len() => input[at] = random.byte(),
            1 if at < input.len() => input[at] ^= 1 << random.below(8),
            2 if at < input.len() => drop(input.remove(at)),
            3 => input.truncate(at),
            4 => input.insert(at, random.byte()),
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                input.splice(at..at, other[from..].iter().copied());
            }
        }
        input.truncate(MAX_LEN_BYTES);
    }
    input
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Bytes of the protocol come often, all others sometimes.
    fn byte(&mut self) -> u8 {
        const LIKELY: &[u8] = b"$#%+-}*~:;,?=0123456789abcdefXZxmpqvQT \x03\"!";
        match self.below(4) {
            0 => self.next() as u8,
            _ => LIKELY[self.below(LIKELY.len())],
        }
    }
}
