//! The call layer of the target in miniature: `docs/call-layer.md`, one step at a time.
//!
//! Time is the test's: a call happens at `now`; an interrupt's records take their times from its entry on.

use host::plan::{CompiledPlan, PlanRequest, compile};
use trace_ring::calls::{
    CallDescriptor, Delivery, DescriptorUse, Function, IpiKind, Onward, call_flag, call_state, descriptors_per_core,
};
use trace_ring::layout::{Context, NO_HISTOGRAM};
use trace_ring::plan::{CoreProgram, KIND_SGIS, Op, Plan, PlanHeader, PlanSlot, TraceLevel, checksum, op, plan_flag};
use trace_ring::record::{
    Event, FLAG_NMI, FLAG_PSEUDO_NMI, FLAG_SYNCHRONOUS, Kind, PEER_ALL, ReceiverState, code_address,
};
use zerocopy::IntoBytes;

use super::Simulator;

/// Where a function lies.
pub fn address(function: Function) -> u64 {
    code_address(0x8001_0000 + 0x100 * function as u32)
}

/// Where calls are made.
pub const SITE: u32 = 0x8002_0040;

/// A call, as a test asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub function: Function,
    pub info: u64,
    pub wait: bool,
}

impl Wish {
    pub fn drain(wait: bool) -> Self {
        Wish { function: Function::Drain, info: 0, wait }
    }
}

impl Simulator {
    /// A plan of one phase in which every core sends every kind to every core, itself included; level `calls`.
    pub fn calls(cores: u16) -> Self {
        let request = PlanRequest { plan: Some("matrix".into()), cores, deterministic: true, ..PlanRequest::default() };
        let mut compiled = compile(&request).expect("the plan compiles");
        let mut aligned = vec![0_u64; compiled.blob.len().div_ceil(8)];
        aligned.as_mut_bytes()[..compiled.blob.len()].copy_from_slice(&compiled.blob);
        let header = *Plan::parse(aligned.as_bytes()).expect("the plan is one").header;
        let mut slots = Vec::new();
        for kind in IpiKind::ALL {
            for (from, to) in (0..cores).flat_map(|from| (0..cores).map(move |to| (from, to))) {
                slots.push(PlanSlot {
                    from,
                    to,
                    phase: 0,
                    intid: kind.intid(),
                    state: ReceiverState::Wfi.code(),
                    histogram: if slots.len() < 512 { slots.len() as u32 } else { NO_HISTOGRAM },
                    kind: kind.slot_code(),
                    delivery: 0,
                    reserved: 0,
                });
            }
        }
        compiled.blob = blob(header, &slots, cores);
        compiled.meta.level = TraceLevel::Calls.name().into();
        compiled.meta.phases.truncate(1);
        let phase = &mut compiled.meta.phases[0];
        (phase.name, phase.pattern, phase.timed) = ("calls".into(), "calls".into(), true);
        let mut target = Simulator::of(CompiledPlan { ..compiled }, cores.into(), true);
        target.begin(0);
        target.phases[0].rounds = 1;
        target
    }

    /// The pair slot of a kind.
    pub fn row(&self, kind: IpiKind, from: u16, to: u16) -> usize {
        let cores = self.cores.len();
        (usize::from(kind.intid()) * cores + usize::from(from)) * cores + usize::from(to)
    }

    fn descriptor(&self, context: Context, caller: u16, wish: Wish) -> u32 {
        let purpose = match (context, wish.function, wish.wait) {
            (Context::Irq, Function::Onward, _) => DescriptorUse::Onward(Onward::from_info(wish.info).origin),
            (_, _, true) => DescriptorUse::Waiting,
            (_, _, false) => DescriptorUse::Single,
        };
        purpose.index(caller, self.cores.len() as u32)
    }

    /// Whether nobody uses a descriptor.
    pub fn is_idle(&self, index: u32) -> bool {
        self.descriptors[index as usize].flags & call_flag::LOCK == 0
    }

    /// Whether a call can be made.
    pub fn is_free(&self, caller: u16, wish: Wish) -> bool {
        self.is_idle(self.descriptor(Context::Thread, caller, wish))
    }

    /// The same for calls to many.
    pub fn are_free(&self, caller: u16, targets: &[u16]) -> bool {
        let index = |target: &u16| DescriptorUse::Many(*target).index(caller, self.cores.len() as u32);
        targets.iter().map(index).all(|index| self.is_idle(index))
    }

    /// Fills a descriptor in and pushes it; `true`: the queue was empty.
    fn enqueue(&mut self, context: Context, kind: IpiKind, index: u32, target: u16, wish: Wish) -> bool {
        let caller = (index / descriptors_per_core(self.cores.len() as u32)) as u16;
        let descriptor = &mut self.descriptors[index as usize];
        assert_eq!(descriptor.flags & call_flag::LOCK, 0, "descriptor {index} is in use");
        let flags = call_flag::LOCK | if wish.wait { call_flag::SYNCHRONOUS } else { 0 };
        *descriptor = CallDescriptor {
            next: 0,
            function: address(wish.function),
            info: wish.info,
            queued: self.now,
            call_site: code_address(SITE),
            flags,
            generation: descriptor.generation + 1,
            source: caller,
            target,
            state: call_state::QUEUED,
            intid: kind.intid(),
            reserved: [0; 5],
        };
        let extra = descriptor.generation as u8;
        let arg = address(wish.function) & 0xFFFF_FFFF | u64::from(SITE) << 32;
        let flags = if wish.wait { FLAG_SYNCHRONOUS } else { 0 };
        let (t, intid) = (self.now, kind.intid());
        self.emit(caller, context, Event { t, kind: Kind::Queued, flags, peer: target, msg: index, intid, extra, arg });
        let queue = &mut self.queues[usize::from(target)][usize::from(kind == IpiKind::IrqWork)];
        queue.push(index);
        queue.len() == 1
    }

    /// Sends an IPI of a kind now; tells who it was.
    pub fn send_kind(&mut self, context: Context, kind: IpiKind, from: u16, to: u16) {
        let (t, intid) = (self.now, kind.intid());
        let slot = self.row(kind, from, to);
        let msg = self.send_from(context, slot, 2);
        let arg = u64::from(SITE);
        self.emit(from, context, Event { t, kind: Kind::CallSite, flags: 0, peer: to, msg, intid, extra: 0, arg });
    }

    /// Calls a function on one core. `true`: an SGI was sent for it.
    pub fn call(&mut self, context: Context, caller: u16, target: u16, wish: Wish) -> bool {
        let index = self.descriptor(context, caller, wish);
        let empty = self.enqueue(context, IpiKind::CallFunction, index, target, wish);
        self.now += 1;
        if empty {
            self.send_kind(context, IpiKind::CallFunction, caller, target);
        }
        self.now += 1;
        empty
    }

    /// Queues work of a core's own.
    pub fn work(&mut self, core: u16, wish: Wish) -> bool {
        let index = DescriptorUse::Work.index(core, self.cores.len() as u32);
        let empty = self.enqueue(Context::Thread, IpiKind::IrqWork, index, core, wish);
        self.now += 1;
        if empty {
            self.send_kind(Context::Thread, IpiKind::IrqWork, core, core);
        }
        self.now += 1;
        empty
    }

    /// Calls a function on several cores. Gives how many needed an SGI.
    pub fn call_many(&mut self, caller: u16, targets: &[u16], wish: Wish) -> usize {
        let mut send = Vec::new();
        for target in targets {
            let index = DescriptorUse::Many(*target).index(caller, self.cores.len() as u32);
            if self.enqueue(Context::Thread, IpiKind::CallFunction, index, *target, wish) {
                send.push(*target);
            }
            self.now += 1;
        }
        self.send_many(Context::Thread, IpiKind::CallFunction, caller, &send);
        send.len()
    }

    /// The first half of a call to several cores: what is queued for one of them, and no send. Gives the descriptor's index.
    pub fn call_many_halfway(&mut self, caller: u16, target: u16, wish: Wish) -> u32 {
        let index = DescriptorUse::Many(target).index(caller, self.cores.len() as u32);
        self.enqueue(Context::Thread, IpiKind::CallFunction, index, target, wish);
        self.now += 1;
        index
    }

    /// Sends one IPI to a set of cores: each target's message has its own time.
    pub fn send_many(&mut self, context: Context, kind: IpiKind, from: u16, targets: &[u16]) {
        if targets.is_empty() {
            return;
        }
        let (t, intid) = (self.now, kind.intid());
        let mut words = [0_u64; 8];
        for (place, to) in targets.iter().enumerate() {
            let slot = self.row(kind, from, *to);
            // Groups of two share a write.
            self.post(slot, t + place as u64 / 2);
            self.flag(slot);
            words[usize::from(*to) / 64] |= 1 << (to % 64);
        }
        let window = targets.len() as u32 / 2 + 1;
        let mut left = words.iter().filter(|word| **word != 0).count() as u8;
        for (word, mask) in words.into_iter().enumerate().filter(|(_, mask)| *mask != 0) {
            left -= 1;
            let peer = word as u16 * 64;
            let event = Event { t, kind: Kind::SendMask, flags: 0, peer, msg: window, intid, extra: left, arg: mask };
            self.emit(from, context, event);
        }
        let msg = self.row(kind, from, 0) as u32;
        let arg = u64::from(SITE);
        self.emit(from, context, Event { t, kind: Kind::CallSite, flags: 0, peer: 0, msg, intid, extra: 0, arg });
        self.now += u64::from(window) + 1;
    }

    /// An interrupt was acknowledged (0), or has ended (1).
    pub fn stage(&mut self, core: u16, context: Context, kind: IpiKind, t: u64, extra: u8) {
        let intid = kind.intid();
        let event = Event { t, kind: Kind::Stage, flags: 0, peer: PEER_ALL, msg: 0, intid, extra, arg: 0 };
        self.emit(core, context, event);
    }

    /// A core takes the interrupt of a kind, entered at `entry`; callbacks take `lasts` ticks. Gives when it ended.
    pub fn interrupt(&mut self, core: u16, kind: IpiKind, entry: u64, lasts: impl Fn(Function) -> u64) -> u64 {
        self.interrupt_as(Delivery::Irq, core, kind, entry, lasts)
    }

    /// The same, however it comes.
    pub fn interrupt_as(
        &mut self,
        delivery: Delivery,
        core: u16,
        kind: IpiKind,
        entry: u64,
        lasts: impl Fn(Function) -> u64,
    ) -> u64 {
        let (context, flags) = match delivery {
            Delivery::Irq => (Context::Irq, 0),
            Delivery::PseudoNmi => (Context::Nmi, FLAG_PSEUDO_NMI),
            Delivery::Nmi => (Context::Nmi, FLAG_NMI),
        };
        self.stage(core, context, kind, entry + 2, 0);
        self.answer(core, kind.intid(), entry, context, flags);
        let mut t = entry + 6;
        let queue = match kind {
            IpiKind::CallFunction => std::mem::take(&mut self.queues[usize::from(core)][0]),
            IpiKind::IrqWork => std::mem::take(&mut self.queues[usize::from(core)][1]),
            _ => Vec::new(),
        };
        let (first, others): (Vec<u32>, Vec<u32>) =
            queue.into_iter().partition(|index| self.descriptors[*index as usize].flags & call_flag::SYNCHRONOUS != 0);
        for index in first.into_iter().chain(others) {
            t = self.execute(core, kind, index, t, &lasts);
        }
        self.stage(core, context, kind, t + 3, 1);
        t + 3
    }

    fn execute(&mut self, core: u16, kind: IpiKind, index: u32, begun: u64, lasts: &impl Fn(Function) -> u64) -> u64 {
        let call = self.descriptors[index as usize];
        let sync = call.flags & call_flag::SYNCHRONOUS != 0;
        self.descriptors[index as usize].flags = 0;
        self.descriptors[index as usize].state = call_state::FREE;
        let event = |kind_of_record: Kind, t: u64| Event {
            t,
            kind: kind_of_record,
            flags: if sync { FLAG_SYNCHRONOUS } else { 0 },
            peer: call.source,
            msg: index,
            intid: kind.intid(),
            extra: call.generation as u8,
            arg: call.function & 0xFFFF_FFFF | call.info << 32,
        };
        self.emit(core, Context::Irq, event(Kind::FunctionEntry, begun));
        let function = Function::ALL.into_iter().find(|known| address(*known) == call.function).expect("one of ours");
        let mut end = begun + lasts(function);
        if function == Function::Onward && Onward::from_info(call.info).hops > 0 {
            let route = Onward::from_info(call.info);
            let next = (core + route.stride) % self.cores.len() as u16;
            let info = Onward { hops: route.hops - 1, ..route }.info();
            self.now = self.now.max(begun + 2);
            self.call(Context::Irq, core, next, Wish { function, info, wait: false });
            end = end.max(self.now + 1);
        }
        self.emit(core, Context::Irq, event(Kind::FunctionExit, end));
        self.live[usize::from(core)].executed += 1;
        end + 1
    }

    /// A park begins (0) or ends (1).
    pub fn park(&mut self, core: u16, by: IpiKind, t: u64, extra: u8) {
        let intid = by.intid();
        let event = Event { t, kind: Kind::Park, flags: 0, peer: PEER_ALL, msg: 0, intid, extra, arg: 0 };
        self.emit(core, Context::Irq, event);
    }

    /// The kinds of which an SGI waits for a core.
    pub fn pending_kinds(&self, core: u16) -> Vec<IpiKind> {
        let waits = |kind: &IpiKind| self.pending.get(&(core, kind.intid())).is_some_and(|senders| !senders.is_empty());
        IpiKind::ALL.into_iter().filter(waits).collect()
    }

    /// All cores take all that waits for them, until nothing does.
    pub fn quiesce(&mut self, lasts: impl Fn(u16, Function) -> u64 + Copy) {
        while let Some((core, kind)) =
            (0..self.cores.len() as u16).find_map(|core| self.pending_kinds(core).first().map(|kind| (core, *kind)))
        {
            let entry = self.now + 10 + u64::from(core) % 3;
            self.now = entry;
            self.now = self.interrupt(core, kind, entry, |function| lasts(core, function)).max(self.now) + 5;
        }
    }

    /// Puts an execution on the record that does not come from any queue.
    pub fn execute_again(&mut self, core: u16, index: u32, entry: u64) {
        self.stage(core, Context::Irq, IpiKind::CallFunction, entry, 0);
        self.descriptors[index as usize].target = core;
        self.execute(core, IpiKind::CallFunction, index, entry + 4, &|_| 20);
        self.stage(core, Context::Irq, IpiKind::CallFunction, entry + 40, 1);
    }

    /// A core takes its interrupt and begins a callback that has no end.
    pub fn begin_callback(&mut self, core: u16, index: u32, begun: u64) {
        self.stage(core, Context::Irq, IpiKind::CallFunction, begun - 4, 0);
        self.answer(core, IpiKind::CallFunction.intid(), begun - 6, Context::Irq, 0);
        self.queues[usize::from(core)][0].clear();
        let call = &mut self.descriptors[index as usize];
        call.state = call_state::RUNNING;
        let event = Event {
            t: begun,
            kind: Kind::FunctionEntry,
            flags: FLAG_SYNCHRONOUS,
            peer: call.source,
            msg: index,
            intid: IpiKind::CallFunction.intid(),
            extra: call.generation as u8,
            arg: call.function & 0xFFFF_FFFF | call.info << 32,
        };
        let live = &mut self.live[usize::from(core)];
        (live.irq, live.function, live.function_since) = (2, call.function, begun);
        self.emit(core, Context::Irq, event);
        self.now = begun + 2;
    }

    /// Takes what stands on a core's queue away.
    pub fn forget_queue(&mut self, core: u16) {
        for index in std::mem::take(&mut self.queues[usize::from(core)][0]) {
            self.descriptors[index as usize].flags = 0;
        }
    }
}

/// A plan of nothing but its slots.
fn blob(mut header: PlanHeader, slots: &[PlanSlot], cores: u16) -> Vec<u8> {
    let end = Op { code: op::END, a: 0, b: 0, c: 0, d: 0 };
    let program = CoreProgram { first_op: 0, reserved: 0, log2_records: [12; 4], reserved1: 0 };
    let programs = vec![program; cores.into()];
    header.flags |= plan_flag::CALLS;
    header.sgi_count = KIND_SGIS;
    header.trace_level = TraceLevel::Calls.code();
    (header.op_count, header.slot_count, header.phase_count) = (1, slots.len() as u32, 1);
    header.histogram_count = slots.iter().filter(|slot| slot.histogram != NO_HISTOGRAM).count() as u32;
    (header.twin_count, header.mask_count, header.meta_len) = (0, 0, 0);
    let mut blob = header.as_bytes().to_vec();
    for (offset, bytes) in [
        (&mut header.ops, end.as_bytes()),
        (&mut header.programs, programs.as_bytes()),
        (&mut header.slots, slots.as_bytes()),
    ] {
        *offset = blob.len() as u64;
        blob.extend_from_slice(bytes);
        blob.resize(blob.len().next_multiple_of(8), 0);
    }
    (header.twins, header.masks, header.meta) = (blob.len() as u64, blob.len() as u64, blob.len() as u64);
    header.total_len = blob.len() as u64;
    for _ in 0..2 {
        // Twice: the checksum covers the header, in which its own field reads as zero.
        blob[..size_of::<PlanHeader>()].copy_from_slice(header.as_bytes());
        header.crc = checksum(&blob);
    }
    blob
}
