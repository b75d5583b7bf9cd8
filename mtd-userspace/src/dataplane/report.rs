//! What loading costs: time, verifier work, memory (`cargo xtask build` prints it).

use std::fmt::Write as _;
use std::time::Instant;

use aya::maps::loaded_maps;
use aya::programs::ProgramInfo;

use super::error::Error;
use super::maps::{cpus, memory, shapes};
use super::plane::{Capacity, Plane};

/// Loads the programs once, from `object` where there is one, and says in a table what that cost.
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
        "\n{:<14} {:>21} {:>12} {:>10}",
        "program", "verifier instructions", "instructions", "JIT bytes"
    );
    let receive = plane.receive_program()?.info();
    let take = plane.take_program()?.info();
    let send = plane.send_program()?.info();
    for (name, info) in [("mtd_receive", receive), ("mtd_take", take), ("mtd_send", send)] {
        let Ok(info) = info else { continue };
        let _ = writeln!(out, "{}", program_line(name, &info));
    }
    let capacity = plane.capacity();
    let _ = writeln!(
        out,
        "\nmaps for {} sessions with {} slots each, {} CPUs\n{:<15} {:>10} {:>6} {:>12}",
        capacity.sessions,
        capacity.ring,
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

fn program_line(name: &str, info: &ProgramInfo) -> String {
    let or_unknown = |value: Option<u32>| value.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    format!(
        "{name:<14} {:>21} {:>12} {:>10}",
        or_unknown(info.verified_instruction_count()),
        or_unknown(info.size_translated().map(|bytes| bytes / 8)),
        info.size_jitted()
    )
}
