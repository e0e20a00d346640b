//! A device tree from a board file, for a machine whose loader passes none.
//!
//! It holds what the firmware reads: cores, GIC frames, timer, memory, PSCI, console. Whoever loads it (QEMU's `-dtb`)
//! adds the initrd under `/chosen`. Node names and properties follow the Devicetree Specification 0.4 and the bindings
//! `arm,gic-v3`, `arm,armv8-timer` and `arm,psci`.

use vm_fdt::FdtWriter;

use crate::{Board, Conduit};

/// What the board file leaves open.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// Cores to describe.
    pub cores: u16,
    /// Bytes of RAM.
    pub memory_bytes: u64,
}

/// Why no tree can be made.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The board file lacks what a tree must say.
    #[error("`{0}` is missing, and without it no device tree can be written")]
    Missing(&'static str),
    /// More cores than the board has.
    #[error("{asked} cores asked for, the board has {max}")]
    Cores {
        /// Asked for.
        asked: u16,
        /// What there is.
        max: u16,
    },
    /// The tree's format can't hold it.
    #[error("the device tree can't be written: {0}")]
    Format(#[from] vm_fdt::Error),
}

/// The phandle of the interrupt controller, the only one that others name.
const GIC: u32 = 1;
/// First cell of an interrupt: shared, private.
const SPI: u32 = 0;
const PPI: u32 = 1;
/// Third cell: triggers.
const LEVEL_HIGH: u32 = 4;
const LEVEL_LOW: u32 = 8;

impl Board {
    /// The device tree of this board as a flattened blob.
    pub fn device_tree(&self, options: TreeOptions) -> Result<Vec<u8>, TreeError> {
        let gic = self.gic.as_ref().ok_or(TreeError::Missing("gic"))?;
        let console = self.console.as_ref().ok_or(TreeError::Missing("console"))?;
        let timers = self.counter.interrupts.ok_or(TreeError::Missing("counter.interrupts"))?;
        let core = self.cores.compatible.as_deref().ok_or(TreeError::Missing("cores.compatible"))?;
        if self.cores.affinity.is_empty() {
            return Err(TreeError::Missing("cores.affinity"));
        }
        if usize::from(options.cores) > self.cores.affinity.len() {
            return Err(TreeError::Cores { asked: options.cores, max: self.cores.max });
        }
        let method = match self.psci.conduit {
            Conduit::None => None,
            Conduit::Hvc => Some("hvc"),
            Conduit::Smc => Some("smc"),
        };

        let mut tree = FdtWriter::new()?;
        let root = tree.begin_node("")?;
        tree.property_u32("#address-cells", 2)?;
        tree.property_u32("#size-cells", 2)?;
        tree.property_u32("interrupt-parent", GIC)?;
        tree.property_string("model", &self.name)?;
        if !self.compatible.is_empty() {
            tree.property_string_list("compatible", self.compatible.clone())?;
        }

        let serial = format!("serial@{:x}", console.base);
        let chosen = tree.begin_node("chosen")?;
        tree.property_string("stdout-path", &format!("/{serial}"))?;
        tree.end_node(chosen)?;

        let cpus = tree.begin_node("cpus")?;
        tree.property_u32("#address-cells", 2)?;
        tree.property_u32("#size-cells", 0)?;
        for affinity in self.cores.affinity.iter().take(options.cores.into()) {
            let cpu = tree.begin_node(&format!("cpu@{affinity:x}"))?;
            tree.property_string("device_type", "cpu")?;
            tree.property_string("compatible", core)?;
            tree.property_array_u64("reg", &[*affinity])?;
            if method.is_some() {
                tree.property_string("enable-method", "psci")?;
            }
            tree.end_node(cpu)?;
        }
        tree.end_node(cpus)?;

        if let Some(method) = method {
            let psci = tree.begin_node("psci")?;
            tree.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
            tree.property_string("method", method)?;
            tree.end_node(psci)?;
        }

        let memory = tree.begin_node(&format!("memory@{:x}", self.memory.base))?;
        tree.property_string("device_type", "memory")?;
        tree.property_array_u64("reg", &[self.memory.base, options.memory_bytes])?;
        tree.end_node(memory)?;

        if !self.memory.reserved.is_empty() {
            let reserved = tree.begin_node("reserved-memory")?;
            tree.property_u32("#address-cells", 2)?;
            tree.property_u32("#size-cells", 2)?;
            tree.property_null("ranges")?;
            for frame in &self.memory.reserved {
                let node = tree.begin_node(&format!("secure@{:x}", frame.base))?;
                tree.property_array_u64("reg", &[frame.base, frame.size])?;
                tree.property_null("no-map")?;
                tree.end_node(node)?;
            }
            tree.end_node(reserved)?;
        }

        let controller = tree.begin_node(&format!("interrupt-controller@{:x}", gic.distributor.base))?;
        tree.property_string("compatible", "arm,gic-v3")?;
        tree.property_null("interrupt-controller")?;
        tree.property_u32("#interrupt-cells", 3)?;
        tree.property_phandle(GIC)?;
        let (distributor, redistributor) = (gic.distributor, gic.redistributor);
        tree.property_array_u64("reg", &[distributor.base, distributor.size, redistributor.base, redistributor.size])?;
        tree.end_node(controller)?;

        let timer = tree.begin_node("timer")?;
        tree.property_string("compatible", "arm,armv8-timer")?;
        let interrupts: Vec<u32> = timers.iter().flat_map(|number| [PPI, *number, LEVEL_LOW]).collect();
        tree.property_array_u32("interrupts", &interrupts)?;
        tree.end_node(timer)?;

        let node = tree.begin_node(&serial)?;
        tree.property_string_list("compatible", console.compatible.clone())?;
        tree.property_array_u64("reg", &[console.base, console.size])?;
        tree.property_array_u32("interrupts", &[SPI, console.interrupt, LEVEL_HIGH])?;
        for (name, value) in [("reg-shift", console.reg_shift), ("reg-io-width", console.reg_io_width)] {
            if let Some(value) = value {
                tree.property_u32(name, value)?;
            }
        }
        tree.property_string("status", "okay")?;
        tree.end_node(node)?;

        tree.end_node(root)?;
        Ok(tree.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node as _, Property as _};

    use super::*;

    #[test]
    fn the_tree_of_the_imx8mp_evk_says_what_its_board_file_says() {
        let board = crate::find("imx8mp-evk").expect("is listed").expect("is valid");
        let blob = board.device_tree(TreeOptions { cores: 3, memory_bytes: 256 << 20 }).expect("can be written");
        let tree = Fdt::new(&blob).expect("can be read");
        let root = tree.root();
        let node = |name: &str| root.child(name).unwrap_or_else(|| panic!("no node {name}"));
        let bytes = |node: &str, property: &str| {
            node_property(&root, node, property).unwrap_or_else(|| panic!("no {property} in {node}"))
        };
        assert_eq!(node("cpus").children().count(), 3);
        assert_eq!(bytes("psci", "method"), b"smc\0");
        assert_eq!(bytes("chosen", "stdout-path"), b"/serial@30890000\0");
        assert_eq!(bytes("serial@30890000", "compatible"), b"fsl,imx8mp-uart\0fsl,imx6q-uart\0");
        assert_eq!(
            bytes("memory@40000000", "reg"),
            [0x4000_0000u64.to_be_bytes(), (256u64 << 20).to_be_bytes()].concat()
        );
        let frames = [0x3880_0000u64, 0x1_0000, 0x3888_0000, 0xC_0000].map(u64::to_be_bytes).concat();
        assert_eq!(bytes("interrupt-controller@38800000", "reg"), frames);
        let timers = [1u32, 13, 8, 1, 14, 8, 1, 11, 8, 1, 10, 8].map(u32::to_be_bytes).concat();
        assert_eq!(bytes("timer", "interrupts"), timers);
    }

    fn node_property(root: &dtoolkit::fdt::FdtNode<'_>, node: &str, property: &str) -> Option<Vec<u8>> {
        Some(root.child(node)?.property(property)?.value().to_vec())
    }

    #[test]
    fn a_board_without_frames_or_with_too_few_cores_gets_no_tree() {
        let board = crate::find("virt").expect("is listed").expect("is valid");
        let options = TreeOptions { cores: 4, memory_bytes: 256 << 20 };
        assert!(matches!(board.device_tree(options), Err(TreeError::Missing("gic"))));
        let board = crate::find("imx8mp-evk").expect("is listed").expect("is valid");
        let options = TreeOptions { cores: 5, ..options };
        assert!(matches!(board.device_tree(options), Err(TreeError::Cores { asked: 5, max: 4 })));
    }
}
