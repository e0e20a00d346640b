//! The device tree, turned into a [`Machine`].
//!
//! Addresses are translated through each bus's `ranges`. A missing or absurd node is an error with the node's name, or, where
//! the kit can do without, left out.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

use crate::machine::{Conduit, CoreDescription, Machine, Range, Uart, UartKind};

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
            .map(|(child, parent, _)| address - child + parent)
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
            for child in node.children() {
                let regions = child.reg().ok().flatten().into_iter().flatten();
                for region in regions {
                    if let (Ok(start), Ok(length)) = (region.address(), region.size())
                        && !machine.reserved.push(start, length)
                    {
                        return Err(TreeError::TooMany("reserved ranges"));
                    }
                }
            }
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

fn cores(root: &FdtNode<'_>, machine: &mut Machine) -> Result<(), TreeError> {
    let cpus = root.child("cpus").ok_or(TreeError::Missing("node /cpus"))?;
    for node in cpus.children() {
        if node.name_without_address() != "cpu" {
            continue;
        }
        let mpidr = number(&node, "reg").ok_or(TreeError::Missing("reg of a /cpus/cpu"))?;
        let slot = machine.cores.get_mut(machine.core_count).ok_or(TreeError::TooMany("cores"))?;
        *slot = CoreDescription { mpidr, usable: enabled(&node) };
        machine.core_count += 1;
    }
    if machine.core_count == 0 {
        return Err(TreeError::Missing("/cpus/cpu"));
    }
    Ok(())
}

/// Finds the GICv3 anywhere in the tree (SoC trees keep it under a bus), and notes a watchdog on the way.
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
        if child.name_without_address() == "watchdog" && enabled(&child) {
            machine.watchdog = true;
        }
        if child.property("ranges").is_some()
            && let Some(below) = path.below(&child)
        {
            interrupt_controller(&child, &below, machine, interrupt_cells)?;
        }
    }
    Ok(())
}

/// The virtual timer: the third interrupt of the architected timer's node.
fn timer(root: &FdtNode<'_>, machine: &mut Machine, interrupt_cells: u32) {
    let node = root.children().find(|node| node.is_compatible("arm,armv8-timer"));
    let Some(property) = node.and_then(|node| node.property("interrupts")) else { return };
    let at = 2 * interrupt_cells as usize * 4;
    // Type 1 is a PPI, numbered from 16.
    if let Some([0, 0, 0, 1, a, b, c, d]) = property.value().get(at..at + 8) {
        machine.virtual_timer = 16 + u32::from_be_bytes([*a, *b, *c, *d]);
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
    let base = reg(node, &path, 0)?.start;
    let kind = if node.is_compatible("arm,pl011") || node.is_compatible("arm,sbsa-uart") {
        UartKind::Pl011
    } else if node.is_compatible("fsl,imx6q-uart") || node.is_compatible("fsl,imx21-uart") {
        UartKind::Imx
    } else {
        return None;
    };
    Some(Uart { kind, base })
}
