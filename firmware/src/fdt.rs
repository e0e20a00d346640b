//! The device tree, turned into a [`Machine`].
//!
//! Addresses are translated through each bus's `ranges`. A missing or absurd node is an error with the node's name, or, where
//! the kit can do without, left out.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

use trace_ring::layout::platform_flag;

use crate::machine::{Conduit, CoreDescription, IdleStates, Machine, Range, Uart, UartKind, Watchdog, WatchdogKind};

/// What is wrong with a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// There is no such node or property, or it can't be read.
    Missing(&'static str),
    /// More of something than the kit has room for.
    TooMany(&'static str),
}

impl core::fmt::Display for TreeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            TreeError::Missing(what) => write!(f, "device tree: no usable {what}"),
            TreeError::TooMany(what) => write!(f, "device tree: too many {what}"),
        }
    }
}

/// Address translation of one bus: up to eight windows. An empty `ranges` is the identity.
#[derive(Clone, Copy)]
struct Windows {
    items: [(u64, u64, u64); 8],
    count: usize,
    identity: bool,
}

impl Windows {
    const IDENTITY: Windows = Windows { items: [(0, 0, 0); 8], count: 0, identity: true };

    fn of(node: &FdtNode<'_>) -> Self {
        let mut windows = Windows { identity: false, ..Windows::IDENTITY };
        match node.property("ranges") {
            Some(property) if property.value().is_empty() => windows.identity = true,
            Some(_) => {
                for range in (*node).ranges().ok().flatten().into_iter().flatten() {
                    let fields = (range.child_bus_address(), range.parent_bus_address(), range.length());
                    if let (Ok(child), Ok(parent), Ok(length)) = fields
                        && let Some(item) = windows.items.get_mut(windows.count)
                    {
                        *item = (child, parent, length);
                        windows.count += 1;
                    }
                }
            }
            None => {}
        }
        windows
    }

    fn translate(&self, address: u64) -> Option<u64> {
        if self.identity {
            return Some(address);
        }
        self.items[..self.count]
            .iter()
            .find(|(child, _, length)| address >= *child && address - child < *length)
            .and_then(|(child, parent, _)| (address - child).checked_add(*parent))
    }
}

/// The buses from the root down to a node, at most six deep.
#[derive(Clone, Copy)]
struct Path {
    buses: [Windows; 6],
    depth: usize,
}

impl Path {
    const ROOT: Path = Path { buses: [Windows::IDENTITY; 6], depth: 0 };

    fn below(&self, node: &FdtNode<'_>) -> Option<Path> {
        let mut path = *self;
        *path.buses.get_mut(path.depth)? = Windows::of(node);
        path.depth += 1;
        Some(path)
    }

    fn translate(&self, address: u64) -> Option<u64> {
        self.buses[..self.depth].iter().rev().try_fold(address, |address, bus| bus.translate(address))
    }
}

fn reg(node: FdtNode<'_>, path: &Path, index: usize) -> Option<Range> {
    let reg = node.reg().ok()??.nth(index)?;
    Some(Range { start: path.translate(reg.address().ok()?)?, length: reg.size().unwrap_or(0) })
}

fn cell(node: &FdtNode<'_>, name: &str) -> Option<u32> {
    node.property(name)?.value_as::<u32>().ok()
}

/// A property of one or two cells.
fn number(node: &FdtNode<'_>, name: &str) -> Option<u64> {
    let property = node.property(name)?;
    match property.value() {
        [a, b, c, d] => Some(u32::from_be_bytes([*a, *b, *c, *d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        _ => None,
    }
}

fn enabled(node: &FdtNode<'_>) -> bool {
    node.property("status").is_none_or(|status| matches!(status.value(), b"okay\0" | b"ok\0"))
}

/// Reads a tree into `machine`.
pub fn read(tree: Fdt<'_>, machine: &mut Machine) -> Result<(), TreeError> {
    let root = tree.root();
    machine.console = console(&root); // first, so that what follows can be complained of
    if root.is_compatible("linux,dummy-virt") {
        machine.platform |= platform_flag::VIRT_TREE;
    }
    cores(&root, machine)?;
    for node in root.children() {
        let name = node.name_without_address();
        if name == "memory" && enabled(&node) {
            for index in 0.. {
                let Some(range) = reg(node, &Path::ROOT, index) else { break };
                if !machine.memory.push(range.start, range.length) {
                    return Err(TreeError::TooMany("memory ranges"));
                }
            }
        } else if name == "reserved-memory" {
            reserved_memory(&node, machine)?;
        } else if name == "chosen" {
            if let (Some(start), Some(end)) = (number(&node, "linux,initrd-start"), number(&node, "linux,initrd-end")) {
                machine.plan = Range { start, length: end.saturating_sub(start) };
            }
        } else if name == "psci" {
            let method = node.property("method");
            machine.conduit = match method.as_ref().map(Property::value) {
                Some(b"hvc\0") => Conduit::Hvc,
                Some(b"smc\0") => Conduit::Smc,
                _ => Conduit::None,
            };
        }
    }
    for reservation in tree.memory_reservations() {
        if !machine.reserved.push(reservation.address(), reservation.size()) {
            return Err(TreeError::TooMany("memory reservations"));
        }
    }
    let mut interrupt_cells = 3;
    interrupt_controller(&root, &Path::ROOT, machine, &mut interrupt_cells)?;
    timer(&root, machine, interrupt_cells);
    if machine.memory.len() == 0 {
        return Err(TreeError::Missing("memory node"));
    }
    if machine.distributor.length == 0 || machine.redistributors.len() == 0 {
        return Err(TreeError::Missing("node compatible with arm,gic-v3"));
    }
    Ok(())
}

/// Every static range below `/reserved-memory` (Devicetree Specification 0.4, 3.5), whatever its node says of how it may be
/// mapped or used: the kit maps and uses nothing there. A node with a `size` and no `reg` is one that a kernel may place; it
/// has no address yet.
fn reserved_memory(node: &FdtNode<'_>, machine: &mut Machine) -> Result<(), TreeError> {
    for child in node.children() {
        for region in child.reg().ok().flatten().into_iter().flatten() {
            if let (Ok(start), Ok(length)) = (region.address(), region.size())
                && !machine.reserved.push(start, length)
            {
                return Err(TreeError::TooMany("reserved ranges"));
            }
        }
    }
    Ok(())
}

/// The text of `/chosen/bootargs`.
pub fn boot_arguments<'a>(tree: Fdt<'a>) -> Option<&'a str> {
    let root = tree.root();
    let chosen = root.children().find(|node| node.name() == "chosen")?;
    chosen.properties().find(|property| property.name() == "bootargs")?.value_as::<&'a str>().ok()
}

fn cores(root: &FdtNode<'_>, machine: &mut Machine) -> Result<(), TreeError> {
    let cpus = root.child("cpus").ok_or(TreeError::Missing("node /cpus"))?;
    let states = described_states(&cpus);
    for node in cpus.children() {
        if node.name_without_address() != "cpu" {
            continue;
        }
        let mpidr = number(&node, "reg").ok_or(TreeError::Missing("reg of a /cpus/cpu"))?;
        let slot = machine.cores.get_mut(machine.core_count).ok_or(TreeError::TooMany("cores"))?;
        *slot = CoreDescription { mpidr, usable: enabled(&node), idle_states: idle_states(&node, &states) };
        machine.core_count += 1;
    }
    if machine.core_count == 0 {
        return Err(TreeError::Missing("/cpus/cpu"));
    }
    Ok(())
}

/// Idle states that a tree may describe: room for those of a few kinds of cores.
const MOST_STATES: usize = 16;

/// What `/cpus/idle-states` describes (binding arm/idle-states): each state's phandle and its parameter for PSCI. States that are
/// disabled, that PSCI does not serve, or that nobody can refer to are left out.
fn described_states(cpus: &FdtNode<'_>) -> [Option<(u32, u32)>; MOST_STATES] {
    let mut states = [None; MOST_STATES];
    let Some(node) = cpus.child("idle-states") else { return states };
    let of_psci = node.children().filter(enabled).filter_map(|state| {
        let phandle = cell(&state, "phandle").or_else(|| cell(&state, "linux,phandle"))?;
        Some((phandle, cell(&state, "arm,psci-suspend-param")?))
    });
    for (place, state) in states.iter_mut().zip(of_psci) {
        *place = Some(state);
    }
    states
}

/// The states that a core's `cpu-idle-states` refers to.
fn idle_states(cpu: &FdtNode<'_>, described: &[Option<(u32, u32)>]) -> IdleStates {
    let mut states = IdleStates::NONE;
    let Some(property) = cpu.property("cpu-idle-states") else { return states };
    for bytes in property.value().chunks_exact(4) {
        let named = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if let Some((_, parameter)) = described.iter().flatten().find(|(phandle, _)| *phandle == named) {
            states.push(*parameter);
        }
    }
    states
}

/// Finds the GICv3 anywhere in the tree (SoC trees keep it under a bus), and notes watchdogs on the way.
fn interrupt_controller(
    node: &FdtNode<'_>,
    path: &Path,
    machine: &mut Machine,
    interrupt_cells: &mut u32,
) -> Result<(), TreeError> {
    for child in node.children() {
        if matches!(child.name_without_address(), "cpus" | "chosen" | "reserved-memory") {
            continue;
        }
        if child.is_compatible("arm,gic-v3") && machine.distributor.length == 0 {
            machine.distributor = reg(child, path, 0).ok_or(TreeError::Missing("reg of the arm,gic-v3 node"))?;
            let regions = cell(&child, "#redistributor-regions").unwrap_or(1);
            for index in 0..regions as usize {
                let region = reg(child, path, 1 + index).ok_or(TreeError::Missing("redistributor region"))?;
                if !machine.redistributors.push(region.start, region.length) {
                    return Err(TreeError::TooMany("redistributor regions"));
                }
            }
            machine.redistributor_stride = number(&child, "redistributor-stride").unwrap_or(0);
            *interrupt_cells = cell(&child, "#interrupt-cells").unwrap_or(3);
            continue; // its children are ITS frames, which the kit leaves alone
        }
        if enabled(&child) {
            watchdog(&child, path, machine);
        }
        if child.property("ranges").is_some()
            && let Some(below) = path.below(&child)
        {
            interrupt_controller(&child, &below, machine, interrupt_cells)?;
        }
    }
    Ok(())
}

/// Notes a watchdog, known by its binding (or, where the kit does not know it, by its generic name).
fn watchdog(node: &FdtNode<'_>, path: &Path, machine: &mut Machine) {
    let is = |names: &[&str]| names.iter().any(|name| node.is_compatible(name));
    let Some(base) = reg(*node, path, 0).map(|range| range.start) else { return };
    let kind = if is(&["fsl,imx21-wdt"]) {
        Some(WatchdogKind::Imx)
    } else if is(&["arm,sbsa-gwdt"]) {
        // The binding's `reg`: control frame, then refresh frame.
        reg(*node, path, 1).map(|frame| WatchdogKind::Sbsa(frame.start))
    } else if is(&["snps,dw-wdt"]) {
        Some(WatchdogKind::DesignWare)
    } else if node.name_without_address() == "watchdog" {
        None
    } else {
        return;
    };
    if let Some(place) = machine.watchdogs.iter_mut().find(|place| place.is_none()) {
        *place = Some(Watchdog { kind, base });
    }
}

/// The virtual timer: the third interrupt of the architected timer's node.
fn timer(root: &FdtNode<'_>, machine: &mut Machine, interrupt_cells: u32) {
    let node = root.children().find(|node| node.is_compatible("arm,armv8-timer"));
    let Some(property) = node.and_then(|node| node.property("interrupts")) else { return };
    let at = 2 * interrupt_cells as usize * 4;
    // Type 1 is a PPI, numbered from 16.
    if let Some([0, 0, 0, 1, a, b, c, d]) = property.value().get(at..at + 8)
        && let Some(intid) = u32::from_be_bytes([*a, *b, *c, *d]).checked_add(16)
    {
        machine.virtual_timer = intid;
    }
}

/// The UART that `/chosen/stdout-path` names.
fn console(root: &FdtNode<'_>) -> Option<Uart> {
    let chosen = root.child("chosen")?;
    let property = chosen.property("stdout-path")?;
    let text = property.value_as::<&str>().ok()?;
    let name = text.split(':').next()?;
    let aliases = root.child("aliases");
    let alias = aliases.and_then(|aliases| aliases.property(name));
    let full = match &alias {
        Some(alias) => alias.value_as::<&str>().ok()?,
        None => name,
    };
    let mut node = *root;
    let mut path = Path::ROOT;
    let mut parts = full.split('/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        node = node.children().find(|child| child.name() == part)?;
        if parts.peek().is_some() {
            path = path.below(&node)?;
        }
    }
    let (kind, offset) = uart(&node)?;
    Some(Uart { kind, base: reg(node, &path, 0)?.start.checked_add(offset)? })
}

/// What a UART's node says it is, and where in its `reg` the registers begin.
fn uart(node: &FdtNode<'_>) -> Option<(UartKind, u64)> {
    let is = |names: &[&str]| names.iter().any(|name| node.is_compatible(name));
    if is(&["arm,sbsa-uart"]) {
        Some((UartKind::Sbsa, 0))
    } else if is(&["arm,pl011"]) {
        Some((UartKind::Pl011, 0))
    } else if is(&["fsl,imx6q-uart", "fsl,imx21-uart"]) {
        Some((UartKind::Imx, 0))
    } else if is(&["ti,am654-uart"]) {
        // Its binding fixes what others say by properties: words, four bytes apart.
        Some((UartKind::Ns16550 { shift: 2, wide: true }, 0))
    } else if is(&["ns16550", "ns16550a", "snps,dw-apb-uart"]) {
        let wide = match cell(node, "reg-io-width").unwrap_or(1) {
            1 => false,
            4 => true,
            _ => return None,
        };
        let shift = u8::try_from(cell(node, "reg-shift").unwrap_or(0)).ok().filter(|shift| *shift <= 4)?;
        Some((UartKind::Ns16550 { shift, wide }, cell(node, "reg-offset").unwrap_or(0).into()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use vm_fdt::{FdtReserveEntry, FdtWriter};

    use super::*;

    type Written = Result<(), vm_fdt::Error>;

    /// A tree that boots, with `more` below the root and `soc` below a bus that lies at 0x1000_0000.
    fn tree(more: impl FnOnce(&mut FdtWriter) -> Written, soc: impl FnOnce(&mut FdtWriter) -> Written) -> Vec<u8> {
        write("acme,board", more, soc).expect("a tree")
    }

    fn write(
        compatible: &str,
        more: impl FnOnce(&mut FdtWriter) -> Written,
        soc: impl FnOnce(&mut FdtWriter) -> Written,
    ) -> Result<Vec<u8>, vm_fdt::Error> {
        let reservation = FdtReserveEntry::new(0x4100_0000, 0x5000)?;
        let mut tree = FdtWriter::new_with_mem_reserv(&[reservation])?;
        let root = tree.begin_node("")?;
        tree.property_u32("#address-cells", 2)?;
        tree.property_u32("#size-cells", 2)?;
        tree.property_string("compatible", compatible)?;
        let cpus = tree.begin_node("cpus")?;
        tree.property_u32("#address-cells", 1)?;
        tree.property_u32("#size-cells", 0)?;
        let cpu = tree.begin_node("cpu@0")?;
        tree.property_u32("reg", 0)?;
        tree.end_node(cpu)?;
        tree.end_node(cpus)?;
        let memory = tree.begin_node("memory@40000000")?;
        tree.property_array_u64("reg", &[0x4000_0000, 0x2000_0000])?;
        tree.end_node(memory)?;
        let bus = tree.begin_node("soc@10000000")?;
        tree.property_u32("#address-cells", 1)?;
        tree.property_u32("#size-cells", 1)?;
        tree.property_array_u32("ranges", &[0, 0, 0x1000_0000, 0x1000_0000])?;
        let gic = tree.begin_node("interrupt-controller@800000")?;
        tree.property_string("compatible", "arm,gic-v3")?;
        tree.property_array_u32("reg", &[0x80_0000, 0x1_0000, 0x88_0000, 0x10_0000])?;
        tree.end_node(gic)?;
        soc(&mut tree)?;
        tree.end_node(bus)?;
        more(&mut tree)?;
        tree.end_node(root)?;
        tree.finish()
    }

    fn none(_: &mut FdtWriter) -> Written {
        Ok(())
    }

    fn read_machine(bytes: &[u8]) -> Box<Machine> {
        let mut machine = Box::new(Machine::new());
        read(Fdt::new(bytes).expect("a tree"), &mut machine).expect("a machine");
        machine
    }

    /// What the console is, given its node's properties.
    fn console_of(properties: impl FnOnce(&mut FdtWriter) -> Written) -> Option<Uart> {
        let chosen = |tree: &mut FdtWriter| {
            let chosen = tree.begin_node("chosen")?;
            tree.property_string("stdout-path", "/soc@10000000/serial@9000:115200n8")?;
            tree.end_node(chosen)
        };
        let serial = |tree: &mut FdtWriter| {
            let node = tree.begin_node("serial@9000")?;
            tree.property_array_u32("reg", &[0x9000, 0x1000])?;
            properties(tree)?;
            tree.end_node(node)
        };
        read_machine(&tree(chosen, serial)).console
    }

    #[test]
    fn every_static_reservation_counts_whatever_else_its_node_says() {
        let bytes = tree(
            |tree| {
                let reserved = tree.begin_node("reserved-memory")?;
                // Cells of its own: the children's numbers are one cell each.
                tree.property_u32("#address-cells", 1)?;
                tree.property_u32("#size-cells", 1)?;
                tree.property_null("ranges")?;
                let firmware = tree.begin_node("secure@42000000")?;
                tree.property_array_u32("reg", &[0x4200_0000, 0x20_0000, 0x5000_0000, 0x10_0000])?;
                tree.property_null("no-map")?;
                tree.end_node(firmware)?;
                let pool = tree.begin_node("linux,cma")?;
                tree.property_string("compatible", "shared-dma-pool")?;
                tree.property_u32("size", 0x200_0000)?; // a kernel places it; it has no address
                tree.end_node(pool)?;
                let buffer = tree.begin_node("buffer@48000000")?;
                tree.property_array_u32("reg", &[0x4800_0000, 0x1000])?;
                tree.property_null("reusable")?;
                tree.end_node(buffer)?;
                tree.end_node(reserved)
            },
            none,
        );
        let range = |start, length| Range { start, length };
        let reserved: Vec<_> = read_machine(&bytes).reserved.iter().collect();
        assert_eq!(
            reserved,
            [
                range(0x4200_0000, 0x20_0000),
                range(0x5000_0000, 0x10_0000),
                range(0x4800_0000, 0x1000),
                range(0x4100_0000, 0x5000) // the tree's own list
            ]
        );
    }

    #[test]
    fn a_console_is_known_by_its_binding() {
        let of = |names: &[&str], cells: &[(&str, u32)]| {
            console_of(|tree| {
                tree.property_string_list("compatible", names.iter().map(|name| String::from(*name)).collect())?;
                cells.iter().try_for_each(|(name, value)| tree.property_u32(name, *value))
            })
        };
        let at = |kind, base| Some(Uart { kind, base });
        let ns16550 = |shift, wide| UartKind::Ns16550 { shift, wide };
        const BASE: u64 = 0x1000_9000; // through the bus's ranges
        assert_eq!(of(&["arm,pl011", "arm,primecell"], &[]), at(UartKind::Pl011, BASE));
        assert_eq!(of(&["arm,sbsa-uart"], &[]), at(UartKind::Sbsa, BASE));
        assert_eq!(of(&["fsl,imx8mp-uart", "fsl,imx6q-uart"], &[]), at(UartKind::Imx, BASE));
        assert_eq!(of(&["ns16550a"], &[]), at(ns16550(0, false), BASE));
        let rockchip = of(&["rockchip,rk3588-uart", "snps,dw-apb-uart"], &[("reg-shift", 2), ("reg-io-width", 4)]);
        assert_eq!(rockchip, at(ns16550(2, true), BASE));
        assert_eq!(of(&["ti,am64-uart", "ti,am654-uart"], &[]), at(ns16550(2, true), BASE));
        assert_eq!(of(&["ns16550"], &[("reg-offset", 0x100), ("reg-shift", 1)]), at(ns16550(1, false), BASE + 0x100));
        assert_eq!(of(&["ns16550"], &[("reg-io-width", 2)]), None, "a width that the kit does not know");
        assert_eq!(of(&["acme,uart"], &[]), None);
    }

    #[test]
    fn without_stdout_path_there_is_no_console() {
        assert_eq!(read_machine(&tree(none, none)).console, None);
    }

    /// Sums that wrapped: a register that would lie beyond the address space is left out.
    #[test]
    fn an_address_beyond_the_address_space_is_none() {
        let far = |parent: u64, offset: u32| {
            let bytes = tree(
                |tree| {
                    let chosen = tree.begin_node("chosen")?;
                    tree.property_string("stdout-path", "/far@0/serial@9000")?;
                    tree.end_node(chosen)?;
                    let bus = tree.begin_node("far@0")?;
                    tree.property_u32("#address-cells", 1)?;
                    tree.property_u32("#size-cells", 1)?;
                    tree.property_array_u32("ranges", &[0, (parent >> 32) as u32, parent as u32, 0x10_0000])?;
                    let node = tree.begin_node("serial@9000")?;
                    tree.property_string("compatible", "ns16550a")?;
                    tree.property_array_u32("reg", &[0x9000, 0x1000])?;
                    tree.property_u32("reg-offset", offset)?;
                    tree.end_node(node)?;
                    tree.end_node(bus)
                },
                none,
            );
            read_machine(&bytes).console.map(|uart| uart.base)
        };
        assert_eq!(far(0x7000_0000, 0x10), Some(0x7000_9010));
        assert_eq!(far(u64::MAX - 0xFFFF, 0), Some(u64::MAX - 0xFFFF + 0x9000));
        assert_eq!(far(u64::MAX - 0xFFF, 0), None);
        assert_eq!(far(u64::MAX - 0xFFFF, u32::MAX), None);
    }

    #[test]
    fn a_timer_whose_interrupt_has_no_intid_leaves_the_usual_one() {
        let timer = |interrupt: u32| {
            let node = |tree: &mut FdtWriter| {
                let node = tree.begin_node("timer")?;
                tree.property_string("compatible", "arm,armv8-timer")?;
                tree.property_array_u32("interrupts", &[1, 13, 4, 1, 14, 4, 1, interrupt, 4])?;
                tree.end_node(node)
            };
            read_machine(&tree(node, none)).virtual_timer
        };
        assert_eq!(timer(12), 28);
        assert_eq!(timer(u32::MAX), 27);
    }

    #[test]
    fn watchdogs_are_found_through_their_buses() {
        let bytes = tree(none, |tree| {
            let node = |tree: &mut FdtWriter, name: &str, compatible: &str, reg: &[u32], status: &str| -> Written {
                let node = tree.begin_node(name)?;
                tree.property_string("compatible", compatible)?;
                tree.property_array_u32("reg", reg)?;
                tree.property_string("status", status)?;
                tree.end_node(node)
            };
            node(tree, "watchdog@1000", "fsl,imx21-wdt", &[0x1000, 0x1000], "okay")?;
            node(tree, "watchdog@2000", "fsl,imx21-wdt", &[0x2000, 0x1000], "disabled")?;
            node(tree, "watchdog@3000", "arm,sbsa-gwdt", &[0x3000, 0x1000, 0x4000, 0x1000], "okay")?;
            node(tree, "wdt@5000", "snps,dw-wdt", &[0x5000, 0x1000], "okay")?;
            node(tree, "watchdog@6000", "acme,wdt", &[0x6000, 0x1000], "okay")
        });
        let found = |kind, base| Some(Watchdog { kind, base });
        assert_eq!(
            read_machine(&bytes).watchdogs,
            [
                found(Some(WatchdogKind::Imx), 0x1000_1000),
                found(Some(WatchdogKind::Sbsa(0x1000_4000)), 0x1000_3000),
                found(Some(WatchdogKind::DesignWare), 0x1000_5000),
                found(None, 0x1000_6000)
            ]
        );
    }

    #[test]
    fn idle_states_are_those_that_a_core_refers_to_in_its_order() {
        let with = |write_states: &dyn Fn(&mut FdtWriter) -> Written, named: &[u32]| {
            let build = || -> Result<Vec<u8>, vm_fdt::Error> {
                let mut tree = FdtWriter::new()?;
                let root = tree.begin_node("")?;
                tree.property_u32("#address-cells", 2)?;
                tree.property_u32("#size-cells", 2)?;
                let cpus = tree.begin_node("cpus")?;
                tree.property_u32("#address-cells", 1)?;
                tree.property_u32("#size-cells", 0)?;
                let states = tree.begin_node("idle-states")?;
                write_states(&mut tree)?;
                tree.end_node(states)?;
                for id in 0..2 {
                    let cpu = tree.begin_node(&format!("cpu@{id}"))?;
                    tree.property_u32("reg", id)?;
                    if id == 1 {
                        tree.property_array_u32("cpu-idle-states", named)?;
                    }
                    tree.end_node(cpu)?;
                }
                tree.end_node(cpus)?;
                tree.end_node(root)?;
                tree.finish()
            };
            let bytes = build().expect("a tree");
            let mut machine = Box::new(Machine::new());
            cores(&Fdt::new(&bytes).expect("a tree").root(), &mut machine).expect("cores");
            assert_eq!(machine.cores[0].idle_states.as_slice(), [], "the first core names none");
            machine.cores[1].idle_states.as_slice().to_vec()
        };
        let state = |tree: &mut FdtWriter, name: &str, phandle: u32, parameter: Option<u32>, status: &str| -> Written {
            let node = tree.begin_node(name)?;
            tree.property_string("compatible", "arm,idle-state")?;
            tree.property_phandle(phandle)?;
            tree.property_string("status", status)?;
            if let Some(parameter) = parameter {
                tree.property_u32("arm,psci-suspend-param", parameter)?;
            }
            tree.end_node(node)
        };
        let three = |tree: &mut FdtWriter| {
            state(tree, "retention", 7, Some(0x1), "okay")?;
            state(tree, "sleep", 8, Some(0x1_0002), "okay")?;
            state(tree, "broken", 9, Some(0x3), "disabled")?;
            state(tree, "other", 10, None, "okay")
        };
        assert_eq!(with(&three, &[8, 7]), [0x1_0002, 0x1]);
        assert_eq!(with(&three, &[9, 10, 99, 7]), [0x1], "disabled, not of PSCI, not there: left out");
        assert_eq!(with(&three, &[7, 7, 7, 7, 7, 7]).len(), 4, "no more than there is room for");
        let many = |tree: &mut FdtWriter| {
            (1..40).try_for_each(|phandle| state(tree, &format!("s{phandle}"), phandle, Some(phandle), "okay"))
        };
        assert_eq!(with(&many, &[16, 17]), [16], "states beyond the room for them are unknown");
        assert_eq!(with(&|_| Ok(()), &[1]), []);
    }

    #[test]
    fn the_generic_virtual_machine_is_told_by_its_root() {
        let bytes = write("linux,dummy-virt", none, none).expect("a tree");
        assert_eq!(read_machine(&bytes).platform, platform_flag::VIRT_TREE);
        assert_eq!(read_machine(&tree(none, none)).platform, 0);
    }

    #[test]
    fn boot_arguments_are_the_whole_text() {
        let bytes = tree(
            |tree| {
                let chosen = tree.begin_node("chosen")?;
                tree.property_string("bootargs", "quiet ipiscope.results=console")?;
                tree.end_node(chosen)
            },
            none,
        );
        let bytes: &'static [u8] = bytes.leak();
        assert_eq!(boot_arguments(Fdt::new(bytes).expect("a tree")), Some("quiet ipiscope.results=console"));
        let bytes: &'static [u8] = tree(none, none).leak();
        assert_eq!(boot_arguments(Fdt::new(bytes).expect("a tree")), None);
    }
}
