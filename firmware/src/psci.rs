//! PSCI over the conduit that the tree names (DEN0022). `smccc` makes the calls.

use smccc::{Hvc, Smc, psci};

use crate::machine::Conduit;

/// PSCI_VERSION: major in bits 31..16, minor in bits 15..0; 0 without PSCI.
pub fn version(conduit: Conduit) -> u32 {
    let version = match conduit {
        Conduit::None => return 0,
        Conduit::Hvc => psci::version::<Hvc>(),
        Conduit::Smc => psci::version::<Smc>(),
    };
    version.map_or(0, |version| u32::from(version.major) << 16 | u32::from(version.minor))
}

/// CPU_ON: starts the core of `mpidr` at `entry` (physical) with `argument` in x0. The error is PSCI's code.
pub fn cpu_on(conduit: Conduit, mpidr: u64, entry: u64, argument: u64) -> Result<(), i32> {
    let answer = match conduit {
        Conduit::None => return Err(psci::error::NOT_SUPPORTED),
        Conduit::Hvc => psci::cpu_on::<Hvc>(mpidr, entry, argument),
        Conduit::Smc => psci::cpu_on::<Smc>(mpidr, entry, argument),
    };
    answer.map_err(|error| i64::from(error) as i32)
}

/// CPU_OFF: gives this core back, so that it can be started again (a second load by a debug probe). Interrupts are masked.
/// Comes back only where PSCI refuses (DENIED), or there is none.
pub fn cpu_off(conduit: Conduit) {
    let _ = match conduit {
        Conduit::None => return,
        Conduit::Hvc => psci::cpu_off::<Hvc>(),
        Conduit::Smc => psci::cpu_off::<Smc>(),
    };
}

/// The UID of a hypervisor, as the SMCCC vendor-specific call 0x8600_FF01 gives it (DEN0028, 6.3); zeroes: none answers.
///
/// Asked only where PSCI_FEATURES says that SMCCC_VERSION (0x8000_0000) is there: an unknown HVC is undefined before that.
pub fn hypervisor_uid(conduit: Conduit) -> [u32; 4] {
    // With PSCI over SMC an HVC would go to our own vectors at EL2, or nowhere.
    if conduit != Conduit::Hvc || version(conduit) < 1 << 16 || psci::psci_features::<Hvc>(0x8000_0000).is_err() {
        return [0; 4];
    }
    let answer = smccc::hvc32(0x8600_FF01, [0; 7]);
    if answer[0] == u32::MAX { [0; 4] } else { [answer[0], answer[1], answer[2], answer[3]] }
}

/// Whether PSCI takes power states in the extended format: bit 1 of what PSCI_FEATURES says of CPU_SUSPEND (DEN0022, 5.15). Before
/// PSCI 1.0 there is only the original one.
fn takes_extended_states(conduit: Conduit) -> bool {
    if version(conduit) < 1 << 16 {
        return false;
    }
    let features = match conduit {
        Conduit::None => return false,
        Conduit::Hvc => psci::psci_features::<Hvc>(psci::PSCI_CPU_SUSPEND_64),
        Conduit::Smc => psci::psci_features::<Smc>(psci::PSCI_CPU_SUSPEND_64),
    };
    features.is_ok_and(|features| features & 1 << 1 != 0)
}

/// The power state to hand to CPU_SUSPEND: `wanted` unless 0, else the first of `named` that is a standby state, else 0. The error is
/// PSCI's code: a core that is powered down would not come back where it left.
pub fn standby_state(conduit: Conduit, wanted: u32, named: &[u32]) -> Result<u32, i32> {
    if conduit == Conduit::None {
        return Err(psci::error::NOT_SUPPORTED);
    }
    let powers_down = if takes_extended_states(conduit) { 1 << 30 } else { 1 << 16 }; // StateType (DEN0022, 5.4.2)
    match wanted {
        0 => Ok(named.iter().copied().find(|state| state & powers_down == 0).unwrap_or(0)),
        state if state & powers_down != 0 => Err(psci::error::INVALID_PARAMETERS),
        state => Ok(state),
    }
}

/// CPU_SUSPEND with a standby state: sleeps until an interrupt is pending, masked or not. The error is PSCI's code.
pub fn cpu_suspend(conduit: Conduit, state: u32) -> Result<(), i32> {
    // A standby state needs no entry point.
    let answer = match conduit {
        Conduit::None => return Err(psci::error::NOT_SUPPORTED),
        Conduit::Hvc => psci::cpu_suspend::<Hvc>(state, 0, 0),
        Conduit::Smc => psci::cpu_suspend::<Smc>(state, 0, 0),
    };
    answer.map_err(|error| i64::from(error) as i32)
}
