//! What is written is read again with the same messages; `tests/protoc.rs` reads it with others.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// `Trace`.
#[derive(Clone, PartialEq, Message)]
struct Trace {
    #[prost(message, repeated, tag = "1")]
    packet: Vec<TracePacket>,
}

fn write(push: impl FnOnce(&mut Writer<&mut Vec<u8>>) -> io::Result<()>) -> (Vec<TracePacket>, Finish) {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &Options { root: "IPI" }).unwrap();
    push(&mut writer).unwrap();
    let finish = writer.finish().unwrap();
    assert_eq!(finish.bytes, bytes.len() as u64);
    let trace = Trace::decode(&*bytes).unwrap();
    assert_eq!(finish.packets, trace.packet.len() as u64);
    (trace.packet, finish)
}

#[test]
fn the_first_packet_clears_the_state_and_names_the_clock_and_only_that() {
    let (packets, _) = write(|writer| {
        let lane = writer.track(writer.root(), "send", 0)?;
        writer.instant(lane, 5, &Mark { name: "x", ..Mark::default() })
    });
    let (first, rest) = packets.split_first().unwrap();
    assert_eq!((first.sequence_flags, first.first_packet_on_sequence), (Some(3), Some(true)));
    assert_eq!(first.trace_packet_defaults.as_ref().unwrap().timestamp_clock_id, Some(6));
    for packet in rest {
        assert_eq!((packet.sequence_flags, &packet.trace_packet_defaults), (Some(2), &None));
    }
    assert!(packets.iter().all(|packet| packet.trusted_packet_sequence_id == Some(SEQUENCE)));
}

#[test]
fn a_full_table_of_names_writes_them_out() {
    let (packets, finish) = write(|writer| {
        let root = writer.root();
        for number in 0..=MOST_NAMES {
            writer.instant(root, 0, &Mark { name: &number.to_string(), ..Mark::default() })?;
        }
        writer.instant(root, 0, &Mark { name: "7", ..Mark::default() })
    });
    assert_eq!(finish.instants, MOST_NAMES as u64 + 2);
    let mut events = packets.iter().filter_map(|packet| packet.track_event.as_ref()).skip(MOST_NAMES);
    let beyond = events.next().unwrap();
    assert_eq!((beyond.name_iid, beyond.name.clone()), (None, Some(MOST_NAMES.to_string())));
    assert_eq!(events.next().unwrap().name_iid, Some(8));
}

#[test]
fn losses_are_instants_and_add_up_in_a_counter_of_their_track() {
    let (packets, finish) = write(|writer| {
        let lane = writer.track(writer.root(), "handler", 0)?;
        writer.lost(lane, 10, Some(5))?;
        writer.lost(lane, 20, None)?;
        writer.lost(lane, 30, Some(u64::MAX))
    });
    assert_eq!((finish.tracks, finish.instants, finish.counts, finish.lost), (3, 3, 3, u64::MAX));
    let counter = packets.iter().filter_map(|packet| packet.track_descriptor.as_ref()).next_back().unwrap();
    assert_eq!((counter.name.as_deref(), counter.parent_uuid), (Some(LOST), Some(2)));
    let events = || packets.iter().filter_map(|packet| packet.track_event.as_ref());
    let values: Vec<_> = events().filter_map(|event| event.counter_value).collect();
    assert_eq!(values, [5, 5, i64::MAX]);
    let counts: Vec<_> = events()
        .filter(|event| event.kind == Some(kind::INSTANT))
        .map(|event| event.debug_annotations.first().and_then(|note| note.uint_value))
        .collect();
    assert_eq!(counts, [Some(5), None, Some(u64::MAX)]);
}

proptest! {
    #[test]
    fn every_flow_begins_and_ends_once_and_every_name_is_told_before_it_is_used(
        ipis in prop::collection::vec((0_usize..4, prop::collection::vec(0_usize..4, 0..4), any::<u64>(), "[a-c]{1,2}"), 0..60),
    ) {
        let (packets, finish) = write(|writer| {
            let mut lanes = Vec::new();
            for core in 0..4 {
                let track = writer.track(writer.root(), &format!("core {core}"), core)?;
                lanes.push((writer.track(track, "send", 0)?, writer.track(track, "handler", 1)?));
            }
            let mut next = 1;
            for (from, targets, t, name) in &ipis {
                // One flow for each target: a flow cannot fork.
                let flows: Vec<u64> = (next..).take(targets.len()).collect();
                next += targets.len() as u64;
                let notes = [("text", Note::Text(name)), ("yes", Note::Bool(true)), ("half", Note::Double(0.5))];
                writer.begin(lanes[*from].0, *t, &Mark { name, flows: &flows, notes: &notes, ..Mark::default() })?;
                writer.end(lanes[*from].0, t.saturating_add(9), &[("left", Note::Int(-1))])?;
                for (target, flow) in targets.iter().zip(flows) {
                    let entry = Mark { name, category: "ipi", ends: &[flow], ..Mark::default() };
                    writer.begin(lanes[*target].1, t.saturating_add(5), &entry)?;
                    writer.end(lanes[*target].1, t.saturating_add(7), &[])?;
                }
            }
            Ok(())
        });
        let mut flows = HashMap::<u64, (u32, u32)>::new();
        let (mut names, mut categories, mut notes) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut told = Vec::new();
        for packet in &packets {
            let new = packet.interned_data.clone().unwrap_or_default();
            for (table, list) in [
                (&mut names, new.event_names),
                (&mut categories, new.event_categories),
                (&mut notes, new.debug_annotation_names),
            ] {
                for name in list {
                    prop_assert!(table.insert(name.iid.unwrap(), name.name.unwrap()).is_none());
                }
            }
            let Some(event) = &packet.track_event else { continue };
            event.flow_ids.iter().for_each(|flow| flows.entry(*flow).or_default().0 += 1);
            event.terminating_flow_ids.iter().for_each(|flow| flows.entry(*flow).or_default().1 += 1);
            prop_assert!(event.category_iids.iter().all(|number| categories.contains_key(number)));
            prop_assert!(event.debug_annotations.iter().all(|note| notes.contains_key(&note.name_iid.unwrap())));
            if event.kind == Some(kind::SLICE_BEGIN) {
                told.push(names[&event.name_iid.unwrap()].clone());
            }
        }
        let sent: usize = ipis.iter().map(|(_, targets, ..)| targets.len()).sum();
        prop_assert_eq!(flows.len(), sent);
        prop_assert!(flows.values().all(|times| *times == (1, 1)), "{:?}", flows);
        let expected: Vec<String> =
            ipis.iter().flat_map(|(_, targets, _, name)| vec![name.clone(); targets.len() + 1]).collect();
        prop_assert_eq!(told, expected);
        prop_assert_eq!((finish.begins, finish.ends), ((sent + ipis.len()) as u64, (sent + ipis.len()) as u64));
    }
}
