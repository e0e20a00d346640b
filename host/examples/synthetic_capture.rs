//! Writes a long capture that no target made, to measure the whole process with: `synthetic_capture matrix 64 10000000 OUT.mcap`.

#[path = "../benches/synthetic/mod.rs"]
mod synthetic;

use std::path::Path;
use std::process::ExitCode;

use synthetic::Shape;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let shape = [Shape::Matrix, Shape::Storm]
        .into_iter()
        .find(|shape| Some(shape.name()) == arguments.first().map(String::as_str));
    let (Some(shape), [_, cores, records, output]) = (shape, arguments.as_slice()) else {
        eprintln!("usage: synthetic_capture matrix|storm CORES RECORDS OUTPUT");
        return ExitCode::from(3);
    };
    let (Ok(cores), Ok(records)) = (cores.parse(), records.parse()) else {
        eprintln!("error: CORES and RECORDS are whole numbers");
        return ExitCode::from(3);
    };
    match synthetic::write(Path::new(output), shape, cores, records) {
        Ok(count) => {
            println!("{output}: {count} records");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}
