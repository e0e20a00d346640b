//! The port as a probe of probe-rs, in the same process.

use std::sync::{Arc, Mutex, PoisonError};

use probe_rs::architecture::arm::sequences::ArmDebugSequence;
use probe_rs::architecture::arm::{
    ArmCommunicationInterface, ArmDebugInterface, ArmError, DapError, DapProbe, RawDapAccess, RegisterAddress,
};
use probe_rs::probe::{DebugProbe, DebugProbeError, Probe, WireProtocol};
use probe_rs::{CoreStatus, Error};

use crate::port::{Port, Request};

/// RDBUFF.
const RDBUFF: u8 = 0xC;

/// A port that a test keeps a hand on while probe-rs uses it.
pub fn share(port: Port) -> Arc<Mutex<Port>> {
    Arc::new(Mutex::new(port))
}

/// A probe that is wired to a port in this process.
#[derive(Debug)]
pub struct VirtualProbe {
    port: Arc<Mutex<Port>>,
}

impl VirtualProbe {
    /// Connects to a port.
    pub fn new(port: Arc<Mutex<Port>>) -> VirtualProbe {
        port.lock().unwrap_or_else(PoisonError::into_inner).connect();
        VirtualProbe { port }
    }

    /// What probe-rs's users hold.
    pub fn into_probe(self) -> Probe {
        Probe::from_specific_probe(Box::new(self))
    }

    fn transfer(&mut self, address: RegisterAddress, write: Option<u32>) -> Result<u32, ArmError> {
        let request = Request { ap: address.is_ap(), address: address.lsb() & 0xC, write };
        self.request(request)
    }

    fn request(&mut self, request: Request) -> Result<u32, ArmError> {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        port.transfer(request).map_err(|_| ArmError::Dap(DapError::FaultResponse))
    }
}

impl RawDapAccess for VirtualProbe {
    fn raw_read_register(&mut self, address: RegisterAddress) -> Result<u32, ArmError> {
        let value = self.transfer(address, None)?;
        if address.is_ap() {
            return self.request(Request { ap: false, address: RDBUFF, write: None });
        }
        Ok(value)
    }

    fn raw_read_block(&mut self, address: RegisterAddress, values: &mut [u32]) -> Result<(), ArmError> {
        if !address.is_ap() {
            for value in values {
                *value = self.transfer(address, None)?;
            }
            return Ok(());
        }
        // Each answers with the result of the one before.
        for index in 0..values.len() {
            let posted = self.transfer(address, None)?;
            if let Some(before) = index.checked_sub(1) {
                values[before] = posted;
            }
        }
        if let Some(last) = values.last_mut() {
            *last = self.request(Request { ap: false, address: RDBUFF, write: None })?;
        }
        Ok(())
    }

    fn raw_write_register(&mut self, address: RegisterAddress, value: u32) -> Result<(), ArmError> {
        self.transfer(address, Some(value)).map(drop)
    }

    fn jtag_sequence(&mut self, _cycles: u8, _tms: bool, _tdi: u64) -> Result<(), DebugProbeError> {
        Err(DebugProbeError::CommandNotSupportedByProbe { command_name: "jtag_sequence" })
    }

    fn swj_sequence(&mut self, _bits: u8, _value: u64) -> Result<(), DebugProbeError> {
        Ok(())
    }

    fn swj_pins(&mut self, _out: u32, _select: u32, _wait: u32) -> Result<u32, DebugProbeError> {
        Err(DebugProbeError::CommandNotSupportedByProbe { command_name: "swj_pins" })
    }

    fn into_probe(self: Box<Self>) -> Box<dyn DebugProbe> {
        self
    }

    fn core_status_notification(&mut self, _state: CoreStatus) -> Result<(), DebugProbeError> {
        Ok(())
    }
}

impl DapProbe for VirtualProbe {}

impl DebugProbe for VirtualProbe {
    fn get_name(&self) -> &str {
        "virtual probe"
    }

    fn speed_khz(&self) -> u32 {
        1000
    }

    fn set_speed(&mut self, speed_khz: u32) -> Result<u32, DebugProbeError> {
        Ok(speed_khz)
    }

    fn attach(&mut self) -> Result<(), DebugProbeError> {
        Ok(())
    }

    fn detach(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn target_reset(&mut self) -> Result<(), DebugProbeError> {
        Err(DebugProbeError::CommandNotSupportedByProbe { command_name: "target_reset" })
    }

    fn target_reset_assert(&mut self) -> Result<(), DebugProbeError> {
        Err(DebugProbeError::CommandNotSupportedByProbe { command_name: "target_reset_assert" })
    }

    fn target_reset_deassert(&mut self) -> Result<(), DebugProbeError> {
        Err(DebugProbeError::CommandNotSupportedByProbe { command_name: "target_reset_deassert" })
    }

    fn select_protocol(&mut self, protocol: WireProtocol) -> Result<(), DebugProbeError> {
        match protocol {
            WireProtocol::Swd => Ok(()),
            other => Err(DebugProbeError::UnsupportedProtocol(other)),
        }
    }

    fn active_protocol(&self) -> Option<WireProtocol> {
        Some(WireProtocol::Swd)
    }

    fn has_arm_interface(&self) -> bool {
        true
    }

    fn try_as_dap_probe(&mut self) -> Option<&mut dyn DapProbe> {
        Some(self)
    }

    fn try_get_arm_debug_interface<'probe>(
        self: Box<Self>,
        sequence: Arc<dyn ArmDebugSequence>,
    ) -> Result<Box<dyn ArmDebugInterface + 'probe>, (Box<dyn DebugProbe>, ArmError)> {
        Ok(ArmCommunicationInterface::create(self, sequence, false))
    }

    fn into_probe(self: Box<Self>) -> Box<dyn DebugProbe> {
        self
    }
}
