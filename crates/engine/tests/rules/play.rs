//! Clients that take part in an exploration of interleavings.

use std::collections::VecDeque;

use crate::model::explore::explore;
use crate::model::{Choices, World};

/// Something that a client does at a moment that the search chooses.
pub(crate) struct Actor {
    can: Box<dyn Fn(&World) -> bool>,
    act: Box<dyn FnMut(&mut World)>,
    /// How often it may act.
    left: usize,
}

impl Actor {
    pub(crate) fn new(
        times: usize,
        can: impl Fn(&World) -> bool + 'static,
        act: impl FnMut(&mut World) + 'static,
    ) -> Self {
        Self {
            can: Box::new(can),
            act: Box::new(act),
            left: times,
        }
    }

    /// Takes the chance away while `condition` holds.
    pub(crate) fn unless(&mut self, condition: impl Fn(&World) -> bool + 'static) {
        let can = std::mem::replace(&mut self.can, Box::new(|_| false));
        self.can = Box::new(move |world| !condition(world) && can(world));
    }

    /// Acts once, at any moment.
    pub(crate) fn once(act: impl FnMut(&mut World) + 'static) -> Self {
        Self::new(1, |_| true, act)
    }

    /// Answers each of a client's first stop replies, when it comes, by the next of `packets`.
    pub(crate) fn resumes(client: usize, packets: &[&str]) -> Self {
        let mut packets: VecDeque<String> = packets.iter().map(ToString::to_string).collect();
        Self::new(
            packets.len(),
            move |world| {
                let client = &world.clients[client];
                !client.awaits_stop && !client.inbox.is_empty()
            },
            move |world| {
                world.clients[client].inbox.clear();
                let packet = packets.pop_front().unwrap();
                world.send(client, &packet);
            },
        )
    }
}

/// Lets everything happen in the order that the world's choices say, until nothing is left. Returns
/// false if the search knows the rest.
pub(crate) fn play(world: &mut World, actors: &mut [Actor]) -> bool {
    for _ in 0..600 {
        let events = world.events();
        let able: Vec<usize> = (0..actors.len())
            .filter(|index| actors[*index].left > 0 && (actors[*index].can)(world))
            .collect();
        let count = events.len() + able.len();
        if count == 0 {
            return true;
        }
        if world.choices.wants_state() {
            let left = actors.iter().fold(0, |all, actor| all * 16 + actor.left);
            let state = world.state().wrapping_add(left as u64);
            if world.choices.is_known(state) {
                return false;
            }
        }
        let choice = world.choices.below(count);
        match events.get(choice) {
            Some(event) => world.happen(*event),
            None => {
                let actor = &mut actors[able[choice - events.len()]];
                actor.left -= 1;
                (actor.act)(world);
            }
        }
    }
    panic!("no end in sight");
}

/// Runs a scenario over every interleaving. `prepare` makes the world and its actors, `check` looks
/// at the end of each interleaving.
pub(crate) fn every_interleaving(
    limit: usize,
    prepare: impl Fn(Choices) -> (World, Vec<Actor>),
    check: impl Fn(&mut World),
) {
    let mut ends = 0;
    let paths = explore(limit, |choices| {
        let taken = std::mem::replace(choices, Choices::Fair(0));
        // Preparations are the same each time.
        let (mut world, mut actors) = prepare(Choices::Fair(0));
        world.choices = taken;
        let is_end = play(&mut world, &mut actors);
        *choices = std::mem::replace(&mut world.choices, Choices::Fair(0));
        if is_end {
            ends += 1;
            check(&mut world);
        }
    });
    assert!(ends > 0);
    println!("{paths} paths, {ends} ends");
}
