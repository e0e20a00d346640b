//! How debuggers reach the port: in process, or by the wire protocol of probe-rs's Glasgow driver.

mod cobs;
mod in_process;
pub mod wire;

pub use in_process::{VirtualProbe, share};
