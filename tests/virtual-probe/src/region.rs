//! Finds images and trace regions in the machine's live RAM, to tell what a read is for.
//!
//! Images lie at 2 MiB boundaries and name their region in the locator behind their header. RAM is scanned again only
//! when something may have changed, at most every fifth of a second; what is known is looked at again at least 50 times
//! a second.

use std::convert::Infallible;
use std::mem::offset_of;
use std::ops::Range;
use std::time::{Duration, Instant};

use trace_ring::layout::{Directory, HeadLine, LOCATOR_MAGIC, LOCATOR_OFFSET, Locator, MAGIC, REGION_ALIGN};
use trace_ring::reader::{Region, RegionSource};
use zerocopy::FromBytes as _;

use crate::machine::Machine;
use crate::stats::Purpose;

/// Bytes at an image's locator that the firmware cleans from its caches to memory.
pub(crate) const CLEANED_BYTES: u64 = 128;

/// How long what is known of a region is believed.
const BELIEVED: Duration = Duration::from_millis(20);
/// How long no scan follows a scan that found nothing new.
const SCAN_PAUSE: Duration = Duration::from_millis(200);

/// A region that lies in RAM.
#[derive(Clone, Debug)]
struct Known {
    nonce: u64,
    region: Range<u64>,
    heads: Range<u64>,
    status: Range<u64>,
    records: u64,
    non_cacheable: bool,
}

/// What is known of images and regions.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    /// Physical addresses of locators.
    locators: Vec<u64>,
    known: Vec<Known>,
    checked: Option<Instant>,
    scanned: Option<Instant>,
}

impl Regions {
    /// What reading at an address is for.
    pub(crate) fn purpose(&mut self, machine: &mut dyn Machine, address: u64) -> Purpose {
        match self.region_at(machine, address) {
            None => Purpose::Outside,
            Some(known) if known.heads.contains(&address) => Purpose::Heads,
            Some(known) if known.status.contains(&address) => Purpose::Status,
            Some(known) if address >= known.records => Purpose::Payload,
            Some(_) => Purpose::Prefix,
        }
    }

    /// Whether memory holds there what the cores last wrote, although the port does not see their caches: everywhere but
    /// in a region that they map cacheable. (What lies around it was cleaned when it was handed over.)
    pub(crate) fn is_clean(&mut self, machine: &mut dyn Machine, address: u64) -> bool {
        self.region_at(machine, address).is_none_or(|known| known.non_cacheable)
    }

    /// The port wrote there: maybe an image.
    pub(crate) fn wrote(&mut self, machine: &dyn Machine, address: u64) {
        let offset = address.wrapping_sub(machine.ram().0) % REGION_ALIGN;
        if (LOCATOR_OFFSET..LOCATOR_OFFSET + CLEANED_BYTES).contains(&offset) {
            (self.scanned, self.checked) = (None, None);
        }
    }

    fn region_at(&mut self, machine: &mut dyn Machine, address: u64) -> Option<&Known> {
        let fresh = self.checked.is_some_and(|at| at.elapsed() < BELIEVED);
        // What lies in no region may lie in one that was made just now.
        if !fresh || self.find(address).is_none() {
            self.check(machine);
        }
        self.find(address).map(|index| &self.known[index])
    }

    fn find(&self, address: u64) -> Option<usize> {
        self.known.iter().position(|known| known.region.contains(&address))
    }

    fn check(&mut self, machine: &mut dyn Machine) {
        if self.scanned.is_none_or(|at| at.elapsed() >= SCAN_PAUSE) {
            self.scanned = Some(Instant::now());
            let (base, bytes) = machine.ram();
            let places = (base..base + bytes).step_by(REGION_ALIGN as usize).map(|start| start + LOCATOR_OFFSET);
            self.locators = places.filter(|at| word(machine, *at) == Some(LOCATOR_MAGIC)).collect();
        }
        self.checked = Some(Instant::now());
        let old = std::mem::take(&mut self.known);
        for at in &self.locators {
            let mut bytes = [0; size_of::<Locator>()];
            if machine.read(*at, &mut bytes).is_err() {
                continue;
            }
            let Ok(locator) = Locator::read_from_bytes(&bytes) else { continue };
            let base = locator.directory_pa;
            if locator.magic != LOCATOR_MAGIC || base == 0 || word(machine, base) != Some(MAGIC) {
                continue;
            }
            let nonce = word(machine, base.saturating_add(offset_of!(Directory, nonce) as u64));
            let same = old.iter().find(|known| known.region.start == base && Some(known.nonce) == nonce);
            if let Some(known) = same.cloned().or_else(|| Known::open(machine, base)) {
                self.known.push(known);
            }
        }
    }
}

impl Known {
    fn open(machine: &mut dyn Machine, base: u64) -> Option<Known> {
        let directory = Region::open(&mut InMachine { machine, base }).ok()?.directory;
        let heads = base.checked_add(directory.sections.heads)?;
        let status = base + offset_of!(Directory, status) as u64;
        Some(Known {
            nonce: directory.nonce,
            region: base..base.checked_add(directory.region_len)?,
            heads: heads..heads + u64::from(directory.core_count) * size_of::<HeadLine>() as u64,
            status: status..base + size_of::<Directory>() as u64,
            records: base + directory.sections.records,
            non_cacheable: directory.non_cacheable == 1,
        })
    }
}

fn word(machine: &mut dyn Machine, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    machine.read(address, &mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// A region in the machine's memory. What can't be read is zeroes, which is no region.
struct InMachine<'a> {
    machine: &'a mut dyn Machine,
    base: u64,
}

impl RegionSource for InMachine<'_> {
    type Error = Infallible;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Infallible> {
        if self.machine.read(self.base.wrapping_add(offset), buffer).is_err() {
            buffer.fill(0);
        }
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, Infallible> {
        Ok(word(self.machine, self.base.wrapping_add(offset)).unwrap_or(0))
    }
}
