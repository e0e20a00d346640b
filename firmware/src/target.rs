//! Bring-up: from the boot stub to a running plan, step by step, and the end.
// UNSAFETY: entry points with fixed names, and the first look at memory that a loader handed over.
#![expect(unsafe_code)]

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use dtoolkit::error::FdtErrorKind;
use dtoolkit::fdt::Fdt;
use trace_ring::calls::{CallQueue, doing};
use trace_ring::layout::{
    ABI_VERSION, Context, Directory, LOCATOR_MAGIC, Locator, MAX_CORES, REGION_ALIGN, SUSPEND_UNTRIED, abort_reason,
    clock_flag, conduit, core_state, fault_kind, run_state,
};
use trace_ring::plan::{Op, Plan, Policy, TraceLevel, op, plan_flag, posture, transition, twin_kind};
use trace_ring::record::{PEER_ALL, ReceiverState};

use crate::console::{self, line};
use crate::exception::refuse;
use crate::gic::Redistributor;
use crate::machine::{Conduit, Machine, find_free};
use crate::memory::{self, Arena, Attribute, Tables};
use crate::options::Options;
use crate::percore::{Calls, Core, Hot, Inbox, Layout, Mail, NOBODY, Pending, RowHead, Shared};
use crate::region::Region;
use crate::twins::{self, Dice, Twins};
use crate::wait::{self, COMPARE, Stop};
use crate::watch::Watch;
use crate::{arch, calls, clock, fdt, gic, interpreter, ipi, kinds, psci, serial, sweep, watchdog};
use arch::read_register;

core::arch::global_asm!(include_str!("boot.s"), options(raw));
core::arch::global_asm!(include_str!("launch.s"), options(raw));

/// Memory that posture PRESSURE works over, for each core, where no operation PRESSURE names more.
const PRESSURE_BYTES: u64 = 256 << 10;

/// The build's identity, in the image, in the ELF and in the region.
static BUILD_ID: [u8; 32] = {
    const fn digit(text: &[u8], index: usize) -> u8 {
        let byte = text[index];
        if byte >= b'a' { byte - b'a' + 10 } else { byte - b'0' }
    }
    let hex = env!("IPISCOPE_BUILD_ID").as_bytes();
    let mut id = [0; 32];
    let mut index = 0;
    while index < 32 {
        id[index] = digit(hex, 2 * index) << 4 | digit(hex, 2 * index + 1);
        index += 1;
    }
    id
};

/// Wraps what the host patches or the target fills in.
#[repr(transparent)]
struct Patched<T>(UnsafeCell<T>);

// SAFETY: written by the host before the start and by the boot core once.
unsafe impl<T> Sync for Patched<T> {}

/// `launch.s` lies right behind the locator (the linker script says so), and ends before the first page does.
const LAUNCHER_OFFSET: u32 = (trace_ring::layout::LOCATOR_OFFSET + size_of::<Locator>() as u64) as u32;
const LAUNCHER_LENGTH: u32 = 4 * 53;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".head.locator")]
static LOCATOR: Patched<Locator> = Patched(UnsafeCell::new(Locator {
    magic: LOCATOR_MAGIC,
    version: ABI_VERSION,
    reserved: 0,
    directory_pa: 0,
    primary_mpidr: 0,
    device_tree_pa: 0,
    plan_pa: 0,
    plan_len: 0,
    build_id: BUILD_ID,
    launcher_offset: LAUNCHER_OFFSET,
    launcher_len: LAUNCHER_LENGTH,
}));

/// Where cores parked by an EL3 entry look; in .data, because they look before .bss is zeroed.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
static RELEASE_TABLE: AtomicU64 = AtomicU64::new(0);

static MACHINE: Patched<Machine> = Patched(UnsafeCell::new(Machine::new()));
static SHARED: Patched<core::mem::MaybeUninit<Shared>> = Patched(UnsafeCell::new(core::mem::MaybeUninit::uninit()));
static REDISTRIBUTORS: Patched<[Redistributor; MAX_CORES]> =
    Patched(UnsafeCell::new([Redistributor { base: 0, typer: 0, iidr: 0 }; MAX_CORES]));

/// What a secondary needs before it can reach anything else (`boot.s` knows the offsets).
#[repr(C, align(64))]
struct BootArguments {
    ttbr0: u64,
    ttbr1: u64,
    tcr: u64,
    mair: u64,
    entry: u64,
    exception_stack: u64,
    thread_stack: u64,
    core: u64,
}

unsafe extern "C" {
    fn secondary_high();
    static _secondary: u8;
    static vectors_off: u8;
    static vectors_ipi: u8;
    static vectors_bounded: u8;
    static vectors_stages: u8;
    static vectors_wide: u8;
    static vectors_twin: u8;
    static vectors_calls: u8;
}

macro_rules! must {
    ($value:expr, $($why:tt)*) => {
        match $value {
            Some(value) => value,
            None => refuse(fault_kind::REFUSED, format_args!($($why)*)),
        }
    };
}

/// The boot core, MMU on, at its linked address. `tree`: x0 as the loader left it; `load`: where the image is; `entry_el`.
#[unsafe(no_mangle)]
extern "C" fn boot_main(tree: u64, load: u64, entry_el: u64) -> ! {
    Core::enter(core::ptr::null());
    set_vectors(core::ptr::addr_of!(vectors_off) as u64);

    // 1. Final page tables for the image; then the tree, so that everything else can be found.
    let mut tables = must!(Tables::new(load), "page tables: the pool is empty");
    must!(tables.map_image(), "page tables: the image can't be mapped at {load:#x}");
    tables.activate();
    // SAFETY: the host patched it before the start; nobody writes it now.
    let locator = unsafe { &*LOCATOR.0.get() };
    let (tree_pa, tree_len) = find_tree(&mut tables, tree, locator);
    // SAFETY: mapped by `find_tree`, and never written again.
    let bytes = unsafe { core::slice::from_raw_parts(tree_pa as *const u8, tree_len) };
    // SAFETY: the boot core alone runs.
    let machine = unsafe { &mut *MACHINE.0.get() };
    let tree = match Fdt::new(bytes) {
        Ok(tree) => tree,
        // Real trees have names longer than the specification's 31 characters, and the check stops at the first. A tree
        // that is broken behind such a name ends in a panic, which leaves a record.
        Err(error) if matches!(error.kind, FdtErrorKind::InvalidPropertyName | FdtErrorKind::InvalidNodeName) => {
            Fdt::new_unchecked(bytes)
        }
        Err(error) => refuse(fault_kind::REFUSED, format_args!("device tree at {tree_pa:#x}: {error}")),
    };
    let read = fdt::read(tree, machine);
    let arguments = fdt::boot_arguments(tree).unwrap_or("");
    let options = Options::parse(arguments, |_| {});
    if let Some(uart) = machine.console
        && tables.map_identity(uart.base, 4096, Attribute::Device).is_some()
    {
        tables.publish();
        console::open(uart);
    }
    if let Err(error) = read {
        refuse(fault_kind::REFUSED, format_args!("{error}"));
    }
    if locator.plan_pa != 0 {
        machine.plan = crate::machine::Range { start: locator.plan_pa, length: locator.plan_len };
    }
    if entry_el == 3 {
        machine.conduit = Conduit::None; // a node may name one, but whoever serves it was not there
    }
    if !clock::set_frequency() {
        refuse(
            fault_kind::REFUSED,
            format_args!("CNTFRQ_EL0 is 0: the boot firmware must set the counter's frequency"),
        );
    }
    serial::configure(options.results);
    if options.feed_watchdogs {
        watchdog::adopt(machine, &mut tables);
    }

    // 2. The plan.
    if machine.plan.length == 0 {
        refuse(
            fault_kind::REFUSED,
            format_args!("no plan: give one as initrd (QEMU -initrd, second argument of booti)"),
        );
    }
    must!(
        tables.map_identity(machine.plan.start, machine.plan.length, Attribute::ReadOnly),
        "page tables: the plan can't be mapped at {:#x}",
        machine.plan.start
    );
    tables.publish();
    // SAFETY: mapped above, and never written again.
    let bytes = unsafe { core::slice::from_raw_parts(machine.plan.start as *const u8, machine.plan.length as usize) };
    let plan = match Plan::parse(bytes) {
        Ok(plan) => plan,
        Err(error) => refuse(fault_kind::REFUSED, format_args!("{error}")),
    };
    let cores = plan.header.core_count as usize;

    // 3. Interrupt controller: before memory is chosen, because an earlier owner may have given it some.
    must!(
        tables.map_identity(machine.distributor.start, machine.distributor.length.min(0x1_0000), Attribute::Device),
        "page tables: no room"
    );
    for region in machine.redistributors.iter() {
        must!(tables.map_identity(region.start, region.length, Attribute::Device), "page tables: no room");
    }
    tables.publish();
    let identity = match gic::set_up_distributor(machine, entry_el == 3) {
        Ok(identity) => identity,
        Err(error) => refuse(fault_kind::REFUSED, format_args!("{error}")),
    };
    // SAFETY: the boot core alone runs.
    let redistributors = unsafe { &mut *REDISTRIBUTORS.0.get() };
    let mut fits = true;
    gic::for_each_redistributor(&machine.redistributors, machine.redistributor_stride, |affinity, frame| {
        let described = &machine.cores[..machine.core_count];
        if let Some(id) = described.iter().position(|core| core.mpidr == affinity) {
            redistributors[id] = frame;
        }
        let (properties, pending) = gic::lpi_tables(frame, identity.typer);
        fits &= machine.reserved.push(properties.start, properties.length);
        fits &= machine.reserved.push(pending.start, pending.length);
    });

    // An SGI names Aff0 by sixteen bits and a range selector (IHI 0069, 12.2.22); without the latter, 16 and above are out of
    // reach. Such a core is not started.
    const RANGE_SELECTOR: u32 = 1 << 26; // GICD_TYPER.RSS
    let in_reach =
        |core: &crate::machine::CoreDescription| core.mpidr & 0xFF < 16 || identity.typer & RANGE_SELECTOR != 0;
    let mut unreachable = [false; MAX_CORES];
    for (core, unreachable) in machine.cores.iter_mut().zip(&mut unreachable) {
        *unreachable = core.usable && !in_reach(core);
        core.usable &= !*unreachable;
    }

    // 4. Memory: work memory and the region, clear of everything that is in use.
    let image_length = memory::image_length().next_multiple_of(REGION_ALIGN);
    fits = fits
        && machine.reserved.push(load, image_length)
        && machine.reserved.push(tree_pa, tree_len as u64)
        && machine.reserved.push(machine.plan.start, machine.plan.length);
    if !fits {
        refuse(fault_kind::REFUSED, format_args!("too many reserved ranges: the tree's, and tables of LPIs"));
    }
    let pressure_bytes = plan.ops.iter().filter(|word| word.code == op::PRESSURE);
    let pressed = pressure_bytes.map(|word| u64::from(word.c.min(1 << 16)) << 10).max().unwrap_or(0);
    let postures = |posture: u8| {
        plan.ops.iter().any(|word| matches!(word.code, op::PHASE | op::POSTURE | op::IDLE) && word.a == posture)
    };
    let mut pressure_bytes = if postures(posture::PRESSURE) { pressed.max(PRESSURE_BYTES) } else { pressed };
    let tables_layout = plan_tables(&plan);
    let dice_bytes = plan.twins.len() as u64 * 8;
    let work_bytes = |pressure: u64| {
        (tables_layout.bytes
            + dice_bytes
            + cores as u64 * (size_of::<Core>() as u64 + 128 + memory::STACK_MEMORY + 4096 + pressure)
            + 0x1_0000)
            .next_multiple_of(REGION_ALIGN)
    };
    let region_length = Region::length(&plan);
    let floor = load + image_length;
    let find = |work: u64| find_free(&machine.memory, &machine.reserved, work + region_length, REGION_ALIGN, floor);
    // A posture presses what there is; operation PRESSURE says what it wants.
    while pressure_bytes / 2 >= pressed.max(4096) && find(work_bytes(pressure_bytes)).is_none() {
        pressure_bytes /= 2;
    }
    let work = work_bytes(pressure_bytes);
    let base = must!(find(work), "memory: no {} MiB free for work memory and rings", (work + region_length) >> 20);
    let non_cacheable = options.non_cacheable.unwrap_or(plan.header.flags & plan_flag::NON_CACHEABLE != 0);
    let region_attribute = if non_cacheable { Attribute::NonCacheable } else { Attribute::Data };
    must!(tables.map_identity(base, work, Attribute::Data), "page tables: no room");
    must!(tables.map_identity(base + work, region_length, region_attribute), "page tables: no room");
    tables.publish();
    if non_cacheable {
        // Lines that an earlier owner left dirty must not be written over the rings later.
        arch::clean_to_memory(base + work, region_length);
    }
    let mut arena = Arena::new(base, work);
    let region = Region::build(base + work, &plan);

    // 5. What cores own and share; the directory, so that from here on the host sees what happens.
    let boot_core = machine.cores[..machine.core_count].iter().position(|core| core.mpidr == arch::affinity());
    let boot_core = must!(boot_core, "device tree: no /cpus/cpu has this core's MPIDR {:#x}", arch::affinity());
    if boot_core >= cores {
        refuse(fault_kind::REFUSED, format_args!("plan for {cores} cores leaves out boot core {boot_core}"));
    }
    let layout = must!(tables_layout.place(&mut arena, &region), "memory: work memory is too small");
    let yardstick = must!(arena.take(1024, 64), "memory: work memory is too small");
    let mut blocks = [core::ptr::null::<Core>(); MAX_CORES];
    for id in 0..cores {
        let place = must!(arena.take(size_of::<Core>() as u64, 128), "memory: work memory is too small") as *mut Core;
        let pressure = must!(arena.take(pressure_bytes, 64), "memory: work memory is too small");
        let core = make_core(id, &plan, &region, layout, machine, redistributors[id], pressure, pressure_bytes);
        // SAFETY: taken from the arena just now; nobody else has seen it.
        unsafe { place.write(core) };
        if unreachable[id] {
            // SAFETY: this core's entry of a region that nobody reads yet.
            unsafe { (*region.core(id)).state = core_state::UNREACHABLE };
        }
        blocks[id] = place;
    }
    let dice = must!(arena.take(dice_bytes, 64), "memory: work memory is too small");
    // SAFETY: taken from the arena just now, a word for each twin; nobody else has seen it.
    let dice = Dice(unsafe { core::slice::from_raw_parts(dice as *const AtomicU64, plan.twins.len()) });
    dice.seed(plan.twins);
    let shared = make_shared(&plan, &region, machine.conduit, boot_core, cores, blocks, dice);
    let psci_version = psci::version(machine.conduit);
    region.publish(Directory {
        nonce: plan.header.nonce,
        region_len: region_length,
        counter_hz: clock::frequency(),
        image_pa: load,
        image_len: memory::image_length(),
        build_id: BUILD_ID,
        core_count: cores as u32,
        slot_count: plan.header.slot_count,
        histogram_count: plan.header.histogram_count,
        phase_count: plan.header.phase_count,
        meta_len: plan.header.meta_len,
        descriptor_count: plan.descriptors() as u32,
        record_ticks: Region::record_cost(region.records()),
        record_ticks_cacheable: Region::record_cost(yardstick),
        gicd_pa_low: machine.distributor.start as u32,
        gicd_pa_high: (machine.distributor.start >> 32) as u32,
        gicd_typer: identity.typer,
        gicd_iidr: identity.iidr,
        gicd_pidr2: identity.pidr2,
        entry_el: entry_el as u8,
        run_el: 1,
        psci_conduit: match machine.conduit {
            Conduit::None => conduit::NONE,
            Conduit::Hvc => conduit::HVC,
            Conduit::Smc => conduit::SMC,
        },
        trace_level: plan.header.trace_level,
        policy: plan.header.policy,
        non_cacheable: non_cacheable.into(),
        deterministic: (plan.header.flags & plan_flag::DETERMINISTIC != 0).into(),
        hypervisor_uid: psci::hypervisor_uid(machine.conduit),
        psci_version,
        platform: machine.platform,
        boot_core: boot_core as u32,
        ..Region::blank()
    });
    // SAFETY: the word of the locator that the host polls.
    unsafe { core::ptr::addr_of_mut!((*LOCATOR.0.get()).directory_pa).write_volatile(base + work) };
    arch::clean_to_memory(LOCATOR.0.get() as u64, size_of::<Locator>() as u64);
    Shared::install(shared);

    // 6. This core, then the others.
    let this = shared.cores[boot_core];
    Core::enter(this);
    // SAFETY: written above.
    let this = unsafe { &*this };
    line!(
        "ipiscope START nonce={:#x} build={} cores={cores} el={entry_el} hz={} region={:#x}",
        plan.header.nonce,
        env!("IPISCOPE_BUILD_ID").split_at(16).0,
        clock::frequency(),
        base + work
    );
    if !enter_service(this) {
        refuse(fault_kind::REFUSED, format_args!("boot core: its redistributor did not wake"));
    }
    set_state(run_state::STARTING);
    start_secondaries(shared, machine, &mut tables, &mut arena, load, entry_el);
    let live = shared.live_cores().count();
    defmt::info!("{=u32} of {=u32} cores are up", live as u32, cores as u32);
    watchdog::report(machine);
    Options::parse(arguments, |word| {
        line!("ipiscope NOTE boot argument {word:?} is not understood and changes nothing")
    });
    line!("KTAP version 1");
    line!("1..{}", plan.header.phase_count);

    // 7. The plan.
    let outcome = participate(this);
    if outcome.is_ok() {
        calls::say(this, doing::DONE, PEER_ALL, 0, 0);
    }
    finish(shared, outcome)
}

/// A secondary, MMU on.
#[unsafe(no_mangle)]
extern "C" fn secondary_main(core: *const Core) -> ! {
    Core::enter(core);
    // SAFETY: written by the boot core before CPU_ON, and cleaned to memory.
    let core = unsafe { &*core };
    let shared = Shared::get();
    if shared.twins_of(core.id).any(|twin| twin.kind == twin_kind::DEAD) {
        arch::park(); // the `dead` twin: started, never seen
    }
    set_vectors(shared_vectors(core));
    if enter_service(core) {
        if participate(core).is_ok() {
            calls::say(core, doing::DONE, PEER_ALL, 0, 0);
        }
        gic::leave_service();
        arch::mask_interrupts();
        // SAFETY: the boot core filled it in before it started this core, and changes it no more.
        psci::cpu_off(unsafe { (*MACHINE.0.get()).conduit });
    }
    Core::retire()
}

/// Where the tree is and how long: in x0, or where the host said. Maps it.
fn find_tree(tables: &mut Tables, x0: u64, locator: &Locator) -> (u64, usize) {
    for candidate in [x0, locator.device_tree_pa] {
        // QEMU's imx8mp-evk hands over ATAGS in x0, so only the magic decides. A tree is 8-byte aligned (DT spec, 5.1).
        if candidate == 0 || candidate % 8 != 0 || candidate >> 48 != 0 {
            continue;
        }
        if tables.map_identity(candidate, 8, Attribute::ReadOnly).is_none() {
            continue;
        }
        tables.publish();
        // SAFETY: mapped above; a loader that passes an address in x0 passes one that can be read.
        let header = unsafe { core::ptr::read_volatile(candidate as *const [u32; 2]) };
        let (magic, length) = (u32::from_be(header[0]), u32::from_be(header[1]) as u64);
        if magic == 0xD00D_FEED && length < 16 << 20 {
            must!(
                tables.map_identity(candidate, length, Attribute::ReadOnly),
                "page tables: the device tree can't be mapped at {candidate:#x}"
            );
            tables.publish();
            return (candidate, length as usize);
        }
    }
    refuse(fault_kind::REFUSED, format_args!("no device tree in x0 ({x0:#x}) or in the locator"))
}

/// How much the shared tables take.
struct TablesLayout {
    bytes: u64,
    row_bytes: u64,
    answered_bytes: u64,
    cores: u64,
    sgi_count: u64,
}

fn plan_tables(plan: &Plan<'_>) -> TablesLayout {
    let (cores, sgi_count) = (u64::from(plan.header.core_count), u64::from(plan.header.sgi_count));
    let row_bytes = (size_of::<RowHead>() as u64 + cores * sgi_count * size_of::<Mail>() as u64).next_multiple_of(64);
    let answered_bytes = (cores * sgi_count * 4).next_multiple_of(64);
    let bytes = cores * (row_bytes + 2 * answered_bytes + sgi_count * size_of::<Pending>() as u64) + 4096;
    TablesLayout { bytes, row_bytes, answered_bytes, cores, sgi_count }
}

impl TablesLayout {
    fn place(&self, arena: &mut Arena, region: &Region) -> Option<Layout> {
        Some(Layout {
            rows: arena.take(self.cores * self.row_bytes, 64)?,
            row_bytes: self.row_bytes,
            answered: arena.take(self.cores * self.answered_bytes, 64)?,
            answered_bytes: self.answered_bytes,
            numbers: arena.take(self.cores * self.answered_bytes, 64)?,
            pending: arena.take(self.cores * self.sgi_count * size_of::<Pending>() as u64, 64)?,
            sgi_count: self.sgi_count,
            words: self.cores.div_ceil(64),
            slots: region.slots(),
            histograms: region.histograms(),
        })
    }
}

fn make_shared(
    plan: &Plan<'static>,
    region: &Region,
    conduit: Conduit,
    boot_core: usize,
    cores: usize,
    blocks: [*const Core; MAX_CORES],
    dice: Dice,
) -> &'static Shared {
    let header = plan.header;
    let level = TraceLevel::from_code(header.trace_level);
    let mode = match (level, Policy::from_code(header.policy)) {
        (TraceLevel::Off, _) => ipi::OFF,
        (TraceLevel::Ipi, Policy::Overwrite) => ipi::IPI,
        (TraceLevel::Ipi, _) => ipi::BOUNDED,
        _ => ipi::STAGES,
    };
    let trigger =
        if Policy::from_code(header.policy) == Policy::Trigger { clock::ticks(header.trigger_ns) } else { u64::MAX };
    // SAFETY: the boot core alone runs, once.
    let place = unsafe { &mut *SHARED.0.get() };
    place.write(Shared {
        plan: *plan,
        cores: blocks,
        core_count: cores,
        status: region.status(),
        request: region.request(),
        phases: region.phases(),
        live: AtomicU32::new(0),
        closed: AtomicBool::new(false),
        arrived: AtomicU32::new(0),
        generation: AtomicU32::new(0),
        turn: AtomicU32::new(NOBODY),
        abort: AtomicU32::new(0),
        phase_started: AtomicU64::new(0),
        again: AtomicBool::new(false),
        exchange: clock::Exchange::new(),
        conduit,
        timeout: clock::ticks(header.timeout_ns),
        patience: match header.patience_ns {
            0 => clock::ticks(header.timeout_ns).saturating_mul(8),
            ns => clock::ticks(ns),
        },
        probe: clock::ticks(header.probe_ns),
        deadline: clock::ticks(header.deadline_ns),
        listens: header.flags & plan_flag::DETERMINISTIC == 0,
        mode,
        level,
        calls: header.flags & plan_flag::CALLS != 0,
        trigger,
        duration: clock::ticks(header.duration_ns),
        boot_core,
        dice,
    })
}

/// Where core `id` begins to draw, from the plan's seed: splitmix64 (Steele et al., OOPSLA 2014). Never 0.
fn seed(plan: u64, id: u64) -> u64 {
    let mut word = plan.wrapping_add((id + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (word ^ word >> 31).max(1)
}

#[expect(clippy::too_many_arguments, reason = "the one place where a core's parts come together")]
fn make_core(
    id: usize,
    plan: &Plan<'static>,
    region: &Region,
    layout: Layout,
    machine: &Machine,
    redistributor: Redistributor,
    pressure: u64,
    pressure_bytes: u64,
) -> Core {
    let described = machine.cores.get(id).filter(|_| id < machine.core_count);
    let affinity = described.map_or(0, |core| core.mpidr);
    let entry = region.core(id);
    // SAFETY: this core's entry of a region that nobody reads yet.
    unsafe {
        (*entry).mpidr = affinity;
        (*entry).gicr_pa = redistributor.base;
        (*entry).gicr_typer = redistributor.typer;
        (*entry).gicr_iidr = redistributor.iidr;
        (*entry).suspend_error = SUSPEND_UNTRIED;
        if described.is_some_and(|core| !core.usable) {
            (*entry).state = core_state::DISABLED;
        }
        (*region.log(id)).capacity = trace_ring::layout::LOG_STRIDE - 64;
    }
    let twins = Twins::of(plan.twins, id as u64);
    let notes_all = plan.header.flags & plan_flag::CALLS != 0 || twins.receives;
    let (records, dropped) = region.records_of(id, Context::Irq);
    Core {
        hot: Hot {
            pending: layout.pending + id as u64 * layout.sgi_count * size_of::<Pending>() as u64,
            template: Cell::new(0),
            mail: layout.rows + size_of::<RowHead>() as u64 + id as u64 * layout.sgi_count * size_of::<Mail>() as u64,
            row_bytes: layout.row_bytes,
            answered: layout.answered + id as u64 * layout.answered_bytes,
            sgi_count: layout.sgi_count,
            slots: layout.slots as u64,
            histograms: layout.histograms as u64,
        },
        layout,
        id: id as u64,
        lanes: region.lanes(id, Policy::from_code(plan.header.policy)),
        timer: machine.virtual_timer,
        affinity,
        redistributor: redistributor.base,
        entry,
        fault: region.fault(id),
        log: region.log(id),
        truth: region.truth(id),
        calls: Calls {
            queue: CallQueue::new(),
            work: CallQueue::new(),
            chain: AtomicU32::new(0),
            released: AtomicBool::new(false),
            masked: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            live: region.live(id),
            descriptors: region.descriptors(),
            cores: plan.header.core_count,
            context: Cell::new(Context::Thread as u8),
            row: Cell::new(0),
            tick_row: Cell::new(0),
            tick_at: Cell::new(0),
            ticks: Cell::new(0),
            begun: Cell::new(0),
            waited: Cell::new(0),
            delivery: Cell::new(0),
            features: Cell::new(0),
            masking: Cell::new(0),
            list: [const { Cell::new(0) }; 16],
            drained: Cell::new(0),
            gathered: Cell::new(0),
        },
        twins,
        twin_memory: twins::Memory::default(),
        masked_until: Cell::new(0),
        wait_until: Cell::new(0),
        watch: Watch::new(notes_all, records, dropped),
        log_frame: Cell::new([0; 120]),
        log_length: Cell::new(0),
        log_daif: Cell::new(0),
        pressure: pressure as *mut u64,
        pressure_words: pressure_bytes as usize / 8,
        pressure_at: Cell::new(0),
        standby: Cell::new(None),
        self_synchronised: Cell::new(false),
        dither: Cell::new(0),
        sweep: Cell::new(sweep::Range::default()),
        rendezvous: sweep::Rendezvous::default(),
        random: Cell::new(seed(plan.header.seed, id as u64)),
        program_counter: AtomicU32::new(0),
        up: AtomicBool::new(false),
        inbox: Inbox {
            attention: AtomicU32::new(0),
            posture: AtomicU8::new(ReceiverState::Wfi.code()),
            posture_taken: AtomicU8::new(ReceiverState::Wfi.code()),
        },
    }
}

fn set_vectors(address: u64) {
    arch::write_register!("vbar_el1", address);
    arch::instruction_barrier();
}

/// The vector table for this core: the plain ones hold no trace of a twin.
fn shared_vectors(core: &Core) -> u64 {
    let twin = core.twins.receives;
    if Shared::get().calls {
        return core::ptr::addr_of!(vectors_calls) as u64;
    }
    match (twin, Shared::get().mode) {
        (true, _) => core::ptr::addr_of!(vectors_twin) as u64,
        (false, _) if core.layout.words > 1 => core::ptr::addr_of!(vectors_wide) as u64,
        (false, ipi::OFF) => core::ptr::addr_of!(vectors_off) as u64,
        (false, ipi::IPI) => core::ptr::addr_of!(vectors_ipi) as u64,
        (false, ipi::STAGES) => core::ptr::addr_of!(vectors_stages) as u64,
        (false, _) => core::ptr::addr_of!(vectors_bounded) as u64,
    }
}

/// Makes this core ready to be interrupted and says so. `false`: it can't be, or it came too late.
fn enter_service(core: &'static Core) -> bool {
    set_vectors(shared_vectors(core));
    core.self_synchronised.set(clock::has_self_synchronised());
    let test = clock::self_test(core);
    // SAFETY: this core's own entry.
    unsafe {
        let entry = core.entry;
        (*entry).midr = read_register!("midr_el1") as u32;
        (*entry).revidr = read_register!("revidr_el1") as u32;
        (*entry).cntfrq = arch::counter_hz() as u32;
        (*entry).read_cost_min = test.read_cost_min;
        (*entry).resolution = test.resolution;
        (*entry).read_cost_max = test.read_cost_max;
        (*entry).backwards = test.backwards;
        (*entry).misreads = test.misreads;
        (*entry).clock_flags |= test.flags;
    }
    let redistributor = Redistributor { base: core.redistributor, ..Redistributor::default() };
    if core.redistributor == 0 || !gic::set_up_core(redistributor, core.timer) {
        set_core_state(core, core_state::NO_REDISTRIBUTOR);
        return false;
    }
    let shared = Shared::get();
    if shared.calls {
        // SAFETY: the boot core filled the description in before it started any other.
        kinds::set_up(core, unsafe { gic::distributor_typer(&*MACHINE.0.get()) });
    }
    if shared.plan.header.flags & plan_flag::CLOCK_TEST != 0
        && let Some(cycles) = clock::count_cycles(core)
    {
        // SAFETY: this core's own entry.
        unsafe {
            ((*core.entry).cycles_busy, (*core.entry).cycle_ticks_busy) = cycles.busy;
            ((*core.entry).cycles_wfi, (*core.entry).cycle_ticks_wfi) = cycles.wfi;
            (*core.entry).clock_flags |= clock_flag::CYCLES;
        }
    }
    if shared.plan.ops.iter().any(suspends) {
        try_suspend(core);
    }
    if shared.closed.load(Ordering::Acquire) {
        return false; // the boot core gave up on us: the run goes on without
    }
    core.enter_state(ReceiverState::Unknown.code());
    set_core_state(core, core_state::UP);
    // Release: whoever sees `up` sees a core whose interrupts work.
    core.up.store(true, Ordering::Release);
    arch::unmask_interrupts();
    true
}

/// Whether an operation wants somebody in CPU_SUSPEND.
fn suspends(word: &Op) -> bool {
    match word.code {
        op::PHASE | op::POSTURE | op::IDLE => word.a == ReceiverState::Suspend.code(),
        op::SWEEP_RANGE => word.a == transition::SUSPEND,
        _ => false,
    }
}

/// Calls CPU_SUSPEND once, to be ended by this core's own timer. Interrupts are masked.
fn try_suspend(core: &Core) {
    const NAP_NS: u64 = 100_000;
    let shared = Shared::get();
    // SAFETY: the boot core filled the description in before it started any other.
    let described = unsafe { &(&(*MACHINE.0.get()).cores)[core.id as usize] };
    let wanted = shared.plan.header.suspend_state;
    let state = psci::standby_state(shared.conduit, wanted, described.idle_states.as_slice());
    let answer = state.and_then(|state| {
        wait::with_timer(core, clock::ticks(NAP_NS), || psci::cpu_suspend(shared.conduit, state)).map(|()| state)
    });
    core.standby.set(answer.ok());
    // SAFETY: this core's own entry.
    unsafe {
        (*core.entry).suspend_state = state.unwrap_or(wanted);
        (*core.entry).suspend_error = answer.err().unwrap_or(0);
    }
}

fn set_core_state(core: &Core, state: u32) {
    // SAFETY: this core's entry; before it is up the boot core writes it, after that the core itself.
    unsafe { core::ptr::addr_of_mut!((*core.entry).state).write_volatile(state) };
}

fn set_state(state: u32) {
    // SAFETY: only the boot core sets the run's state.
    unsafe { core::ptr::addr_of_mut!((*Shared::get().status).state).write_volatile(state) };
}

/// Starts every core of the plan, and waits until each is up or its time is over.
fn start_secondaries(
    shared: &'static Shared,
    machine: &Machine,
    tables: &mut Tables,
    arena: &mut Arena,
    load: u64,
    entry_el: u64,
) {
    let (tcr, mair) = memory::translation_registers();
    let entry = memory::image_physical(core::ptr::addr_of!(_secondary) as u64, load);
    let (ttbr0, ttbr1) = tables.roots();
    let release = must!(arena.take(8 + 16 * shared.core_count as u64, 64), "memory: work memory is too small");
    let mut released = 0u64;
    let mut waiting = [0u64; MAX_CORES];
    for id in (0..shared.core_count).filter(|id| *id != shared.boot_core) {
        // SAFETY: written in `boot_main`; the core is off.
        let core = unsafe { &*shared.cores[id] };
        let described = &machine.cores[id];
        if id >= machine.core_count || !described.usable {
            continue;
        }
        let memory = must!(arena.take(memory::STACK_MEMORY, 4096), "memory: work memory is too small");
        let stacks = must!(tables.map_stacks(id, memory), "page tables: no room for the stacks of core {id}");
        let arguments = must!(arena.take(size_of::<BootArguments>() as u64, 64), "memory: work memory is too small");
        // SAFETY: taken from the arena just now.
        unsafe {
            (arguments as *mut BootArguments).write(BootArguments {
                ttbr0,
                ttbr1,
                tcr,
                mair,
                entry: secondary_high as *const () as u64,
                exception_stack: stacks.0,
                thread_stack: stacks.1,
                core: shared.cores[id] as u64,
            });
        }
        // It reads these with its MMU off.
        arch::clean_to_memory(arguments, size_of::<BootArguments>() as u64);
        set_core_state(core, core_state::STARTING);
        waiting[id] = arguments;
    }
    tables.publish();
    tables.clean();
    let boot_time = clock::ticks(shared.plan.header.boot_ns);
    if entry_el == 3 {
        for (core, arguments) in machine.cores.iter().zip(waiting).filter(|(_, arguments)| *arguments != 0) {
            // SAFETY: inside the table taken above, which has a line for every core.
            unsafe {
                let line = (release + 8 + released * 16) as *mut u64;
                line.write(core.mpidr);
                line.add(1).write(arguments);
            }
            released += 1;
        }
        // SAFETY: as above.
        unsafe { (release as *mut u64).write(released) };
        arch::clean_to_memory(release, 8 + 16 * released);
        RELEASE_TABLE.store(release, Ordering::Release);
        arch::clean_to_memory(core::ptr::addr_of!(RELEASE_TABLE) as u64, 8);
        // SAFETY: a hint to cores in WFE.
        unsafe { core::arch::asm!("sev", options(nostack, preserves_flags)) };
    } else {
        for (id, arguments) in waiting.iter_mut().enumerate().filter(|(_, arguments)| **arguments != 0) {
            if let Err(code) = psci::cpu_on(machine.conduit, machine.cores[id].mpidr, entry, *arguments) {
                // SAFETY: as above; the core was not started.
                let core = unsafe { &*shared.cores[id] };
                set_core_state(core, core_state::REFUSED);
                // SAFETY: as above.
                unsafe { (*core.entry).error = code };
                *arguments = 0;
                defmt::warn!("core {=u32}: CPU_ON failed with {=i32}", id as u32, code);
            }
        }
    }
    let deadline = arch::counter() + boot_time;
    let missing = |shared: &Shared| {
        (0..shared.core_count).any(|id| {
            // SAFETY: as above.
            let state = unsafe { core::ptr::addr_of!((*(*shared.cores[id]).entry).state).read_volatile() };
            waiting[id] != 0 && state == core_state::STARTING
        })
    };
    // Asleep between looks: under an emulator the boot core would otherwise take a host core from those that boot.
    while missing(shared) && arch::counter() < deadline {
        let _ = wait::idle_until(Core::this(), arch::counter() + clock::ticks(200_000));
    }
    // From here on nobody joins; then count. A core that is between the look at `closed` and `up` gets a moment more.
    shared.closed.store(true, Ordering::Release);
    arch::synchronize();
    let grace = arch::counter() + clock::ticks(10_000);
    while arch::counter() < grace {
        arch::yield_now();
    }
    for id in 0..shared.core_count {
        // SAFETY: as above.
        let core = unsafe { &*shared.cores[id] };
        // SAFETY: as above.
        let state = unsafe { core::ptr::addr_of!((*core.entry).state).read_volatile() };
        if state == core_state::STARTING {
            set_core_state(core, core_state::NO_SHOW);
            defmt::warn!("core {=u32}: started, but did not arrive", id as u32);
            line!("ipiscope NOTE core {id} (mpidr {:#x}) was started but did not arrive", machine.cores[id].mpidr);
        }
    }
    let live = shared.live_cores().count() as u32;
    shared.live.store(live, Ordering::Release);
    // SAFETY: the status line is the boot core's.
    unsafe { core::ptr::addr_of_mut!((*shared.status).cores_up).write_volatile(live) };
}

/// What every core does once it is up: meet, compare clocks, run the program, compare clocks, meet.
fn participate(core: &'static Core) -> Result<(), Stop> {
    let shared = Shared::get();
    let boots = core.id as usize == shared.boot_core;
    // A secondary waits until the boot core has counted the live ones.
    if !boots {
        wait::wait_for(core, || shared.live.load(Ordering::Acquire) != 0)?;
    } else {
        ipi::wake_all();
    }
    wait::barrier(core, || {})?;
    let test = shared.plan.header.flags & plan_flag::CLOCK_TEST != 0;
    if boots && test {
        compare_clocks(core, false)?;
    }
    wait::barrier(core, || {
        // SAFETY: all other cores wait at the barrier.
        unsafe {
            core::ptr::addr_of_mut!((*shared.status).started).write_volatile(arch::counter_ordered());
            core::ptr::addr_of_mut!((*shared.status).state).write_volatile(run_state::RUNNING);
        }
    })?;
    core.watch.begin();
    let outcome = interpreter::run(core);
    core.watch.end();
    outcome?;
    core.inbox.posture.store(ReceiverState::Wfi.code(), Ordering::Release);
    wait::barrier(core, || {
        // SAFETY: as above.
        unsafe { core::ptr::addr_of_mut!((*shared.status).ended).write_volatile(arch::counter_ordered()) };
    })?;
    if test {
        test_again(core);
        wait::barrier(core, || {})?; // the boot core's comparisons write into entries, too
        if boots {
            compare_clocks(core, true)?;
        }
    }
    wait::barrier(core, || {})
}

/// The self-test once more: a counter may go wrong under way.
fn test_again(core: &Core) {
    let test = clock::self_test(core);
    // SAFETY: this core's own entry.
    unsafe {
        (*core.entry).backwards_after = test.backwards;
        (*core.entry).misreads_after = test.misreads;
        (*core.entry).clock_flags |= clock_flag::TESTED_AFTER;
    }
}

/// Bounds every core's counter against this one's, for a third of a second at most.
fn compare_clocks(core: &'static Core, after: bool) -> Result<(), Stop> {
    let shared = Shared::get();
    let budget = clock::ticks(300_000_000);
    let end = arch::counter() + budget;
    let share = budget / u64::from(shared.live.load(Ordering::Relaxed)).max(1);
    for other in shared.live_cores().filter(|other| other.id != core.id) {
        if arch::counter() > end {
            break;
        }
        wait::set_posture(core, other, COMPARE)?;
        let now = arch::counter();
        let bounds = shared.exchange.ask(core, now + share / 2, now + clock::ticks(100_000_000));
        wait::set_posture(core, other, ReceiverState::Wfi.code())?;
        let Some(bounds) = bounds else { continue };
        // SAFETY: the skew fields of all entries are the boot core's.
        unsafe {
            let entry = other.entry;
            if after {
                (*entry).skew_after_low = bounds.low;
                (*entry).skew_after_high = bounds.high;
                (*entry).round_trip_after = bounds.round_trip;
                (*entry).clock_flags |= clock_flag::SKEW_AFTER;
            } else {
                (*entry).skew_before_low = bounds.low;
                (*entry).skew_before_high = bounds.high;
                (*entry).round_trip_before = bounds.round_trip;
                (*entry).clock_flags |= clock_flag::SKEW_BEFORE;
            }
        }
    }
    Ok(())
}

/// The end of the run: totals, the last line, the state that tells the host that nothing moves any more. Then results over
/// the console, for as long as the machine is on.
fn finish(shared: &'static Shared, outcome: Result<(), Stop>) -> ! {
    arch::mask_interrupts();
    let reason = shared.abort.load(Ordering::Acquire);
    if outcome.is_err() {
        // The others leave their programs at the next operation; nothing they still write may come after the end.
        let patience = arch::counter() + clock::ticks(2_000_000);
        while arch::counter() < patience {
            arch::yield_now();
        }
        // SAFETY: the status line is the boot core's now.
        unsafe { core::ptr::addr_of_mut!((*shared.status).ended).write_volatile(arch::counter_ordered()) };
    }
    let (mut sent, mut lost) = (0u64, 0u64);
    let this = Core::this();
    for (index, slot) in shared.plan.slots.iter().enumerate() {
        let counts = this.slot(index as u64);
        // SAFETY: slots of the region, whose writers have stopped.
        unsafe {
            sent += (*counts).sent;
            lost += (*counts).lost;
            if let Some(receiver) = shared.core(slot.to.into()) {
                (*receiver.entry).acknowledges += (*counts).delivered;
            }
        }
    }
    for core in shared.live_cores() {
        // SAFETY: as above.
        unsafe { (*core.entry).acknowledges += (*core.entry).empty_acknowledges };
    }
    let complete = outcome.is_ok() && reason == abort_reason::NONE;
    line!(
        "ipiscope END nonce={:#x} {} sent={sent} lost={lost} reason={reason}",
        shared.plan.header.nonce,
        if complete { "complete" } else { "aborted" }
    );
    let _ = this.lane(Context::Thread).head();
    arch::synchronize();
    set_state(if complete { run_state::ENDED } else { run_state::ABORTED });
    arch::synchronize();
    serial::serve()
}
