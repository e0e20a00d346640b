//! The order of a core's queue, from nothing but its descriptors: their states, links and times.
//!
//! A link names the descriptor that was pushed before; a target that has taken its queue turns the links round before it runs
//! the calls. So a queue is one chain or two (what was taken, and what was pushed since), each of either direction. Times tell
//! which; where links contradict one another, as a look at memory that changes can find them, times alone decide.

use std::collections::{HashMap, HashSet};

use trace_ring::calls::{CallDescriptor, call_flag, call_state};

/// Indices of the calls that wait on a core's queue of an INTID or are being run from it, the oldest first.
pub fn of(calls: &[CallDescriptor], target: u16, intid: u8) -> Vec<u32> {
    let is_meant = |call: &CallDescriptor| call.target == target && call.intid == intid;
    // One that ran and was never unlocked keeps its caller waiting: it counts.
    let under_way = |call: &CallDescriptor| {
        let left = call.state == call_state::EXECUTED && call.flags & call_flag::LOCK != 0;
        call.state == call_state::RUNNING || left
    };
    let list = |wanted: &dyn Fn(&CallDescriptor) -> bool| -> Vec<u32> {
        (0..).zip(calls).filter(|(_, call)| is_meant(call) && wanted(call)).map(|(index, _)| index).collect()
    };
    let mut order = list(&under_way);
    order.sort_by_key(|index| (calls[*index as usize].queued, *index));
    order.extend(arrange(calls, &list(&|call| call.state == call_state::QUEUED)));
    order
}

/// Puts queued calls into order.
fn arrange(calls: &[CallDescriptor], queued: &[u32]) -> Vec<u32> {
    let members: HashSet<u32> = queued.iter().copied().collect();
    let link = |index: u32| -> Option<u32> {
        let next = calls[index as usize].next.checked_sub(1).and_then(|next| u32::try_from(next).ok());
        next.filter(|next| members.contains(next))
    };
    let time = |index: u32| calls[index as usize].queued;
    let mut pointed: HashMap<u32, u32> = HashMap::new();
    for index in queued {
        if let Some(next) = link(*index) {
            *pointed.entry(next).or_default() += 1;
        }
    }
    let mut chains = Vec::new();
    let mut seen = HashSet::new();
    for first in queued.iter().copied().filter(|index| !pointed.contains_key(index)) {
        let mut chain = Vec::new();
        let mut at = Some(first);
        while let Some(index) = at.filter(|index| seen.insert(*index)) {
            chain.push(index);
            at = link(index);
        }
        // From the one that nobody points to: the newest of a queue, the oldest of one that was taken. Where all came at one time
        // it counts as not taken.
        if chain.first().map(|first| time(*first)) >= chain.last().map(|last| time(*last)) {
            chain.reverse();
        }
        chains.push(chain);
    }
    let contradict = seen.len() < queued.len() || pointed.values().any(|count| *count > 1);
    if contradict {
        let mut order = queued.to_vec();
        order.sort_by_key(|index| (time(*index), *index));
        return order;
    }
    chains.sort_by_key(|chain| chain.first().map(|first| time(*first)));
    chains.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call to core 2, queued at `queued`; `next`: index of the one before it.
    fn call(queued: u64, next: Option<u64>) -> CallDescriptor {
        let (flags, state) = (call_flag::LOCK, call_state::QUEUED);
        let next = next.map_or(0, |next| next + 1);
        CallDescriptor { next, queued, target: 2, intid: 1, state, flags, ..CallDescriptor::default() }
    }

    #[test]
    fn a_queue_is_told_from_its_oldest_call() {
        // Equal times: the links alone tell that 3 was pushed before 0, and 0 before 1.
        let mut calls = vec![call(70, Some(3)), call(70, Some(0)), CallDescriptor::default(), call(70, None)];
        assert_eq!(of(&calls, 2, 1), [3, 0, 1]);
        assert_eq!(of(&calls, 1, 1), [0u32; 0]);
        assert_eq!(of(&calls, 2, 5), [0u32; 0]);
        // Of another core's queue, another INTID's, or free: not in it, whatever points there.
        (calls[0].target, calls[1].queued) = (3, 80);
        assert_eq!(of(&calls, 2, 1), [3, 1]);
    }

    #[test]
    fn a_queue_that_was_taken_is_told_the_same_way() {
        // The target has turned 0 <- 1 <- 2 round; 3 and 4 were pushed since.
        let calls = [call(10, Some(1)), call(20, Some(2)), call(30, None), call(40, None), call(50, Some(3))];
        assert_eq!(of(&calls, 2, 1), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn calls_under_way_come_first_and_one_left_locked_is_not_forgotten() {
        let mut calls = vec![call(30, None), call(20, None), call(10, None), call(5, None)];
        calls[1].state = call_state::RUNNING;
        calls[2].state = call_state::EXECUTED;
        calls[3].state = call_state::EXECUTED;
        calls[3].flags = 0;
        assert_eq!(of(&calls, 2, 1), [2, 1, 0]);
    }

    #[test]
    fn links_that_contradict_one_another_leave_it_to_the_times() {
        // A ring, and two that point to one.
        let ring = [call(30, Some(1)), call(10, Some(2)), call(20, Some(0))];
        assert_eq!(of(&ring, 2, 1), [1, 2, 0]);
        let fork = [call(30, Some(2)), call(10, Some(2)), call(20, None)];
        assert_eq!(of(&fork, 2, 1), [1, 2, 0]);
        // A link out of the section, or to itself.
        let wild = [call(30, Some(1 << 40)), call(10, Some(1))];
        assert_eq!(of(&wild, 2, 1), [1, 0]);
    }
}
