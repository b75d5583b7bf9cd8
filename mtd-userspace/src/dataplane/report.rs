//! The cost of loading: time, verifier work, memory (printed by `cargo xtask build`).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use aya::maps::loaded_maps;
use aya::programs::ProgramInfo;

use super::error::Error;
use super::groups::shapes;
use super::maps::{cpus, memory};
use super::object;
use super::plane::Plane;
use super::settings::Capacity;

/// Loads the programs once, from `object` if given, and returns a table of the cost.
///
/// # Errors
/// When the kernel refuses.
pub fn load_report(object: Option<&[u8]>, capacity: Capacity) -> Result<String, Error> {
    let before: Vec<u32> = loaded_maps().flatten().map(|info| info.id()).collect();
    let started = Instant::now();
    let mut plane = match object {
        Some(object) => Plane::load_object(object, capacity)?,
        None => Plane::load(capacity)?,
    };
    let elapsed = started.elapsed();
    let mut out = String::new();
    let _ = writeln!(out, "maps and programs loaded in {:.1} ms", elapsed.as_secs_f64() * 1e3);
    let _ = writeln!(
        out,
        "\n{:<14} {:>21} {:>12} {:>10} {:>8}",
        "program", "verifier instructions", "instructions", "JIT bytes", "load ms"
    );
    for name in object::ALL {
        let time = plane.reload_time(name)?;
        let _ = writeln!(out, "{}", program_line(name, &plane.program_info(name)?, time));
    }
    let capacity = plane.capacity();
    let _ = writeln!(
        out,
        "\nmaps for {} sessions with {} slots each, {} CPUs\n{:<15} {:>10} {:>6} {:>12}",
        capacity.sessions,
        capacity.slots,
        cpus(),
        "map",
        "entries",
        "value",
        "KiB"
    );
    let mut total = 0;
    let names: Vec<&str> = shapes(capacity).iter().map(|shape| shape.name).collect();
    for info in loaded_maps().flatten().filter(|info| !before.contains(&info.id())) {
        let bytes = memory(&info).unwrap_or_default();
        total += bytes;
        let name = info.name_as_str().unwrap_or("?").to_owned();
        // The kernel cuts names at 15 characters.
        let name =
            names.iter().find(|full| full.starts_with(&name)).map_or(name.clone(), ToString::to_string);
        let _ = writeln!(
            out,
            "{name:<15} {:>10} {:>6} {:>12}",
            info.max_entries(),
            info.value_size(),
            bytes.div_ceil(1024)
        );
    }
    let _ = write!(out, "{:<15} {:>30}", "total", total.div_ceil(1024));
    Ok(out)
}

fn program_line(name: &str, info: &ProgramInfo, time: Duration) -> String {
    let or_unknown = |value: Option<u32>| value.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    format!(
        "{name:<14} {:>21} {:>12} {:>10} {:>8.1}",
        or_unknown(info.verified_instruction_count()),
        or_unknown(info.size_translated().map(|bytes| bytes / 8)),
        info.size_jitted(),
        time.as_secs_f64() * 1e3
    )
}
