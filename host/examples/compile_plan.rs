//! Compiles a plan into a file, for a machine that is started by hand: `-initrd FILE`, or the second argument of `booti`.

use std::process::ExitCode;

use host::plan::{PlanRequest, compile};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plan, cores, output, faults @ ..] = arguments.as_slice() else {
        eprintln!("usage: compile_plan PLAN CORES OUTPUT [--deterministic] [FAULT ...]");
        return ExitCode::from(3);
    };
    match write(plan, cores, output, faults) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

fn write(plan: &str, cores: &str, output: &str, rest: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let mut request =
        PlanRequest { plan: Some(plan.into()), cores: cores.parse()?, nonce: 1, ..PlanRequest::default() };
    for argument in rest {
        match argument.as_str() {
            "--deterministic" => request.deterministic = true,
            fault => request.faults.push(fault.parse()?),
        }
    }
    let compiled = compile(&request)?;
    std::fs::write(output, &compiled.blob)?;
    for note in &compiled.notes {
        eprintln!("note: {note}");
    }
    println!(
        "{output}: plan `{}`, {} bytes, {} IPIs a round, region of {} MiB",
        compiled.meta.name,
        compiled.blob.len(),
        compiled.meta.expected_sends,
        compiled.region_bytes >> 20
    );
    Ok(())
}
