// Numbers for people.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** A number of bytes in the largest binary unit that does not exceed it. */
export function bytes(count) {
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(count) : count.toFixed(count < 10 ? 2 : 1)}\u00a0${UNITS[unit]}`;
}

/** Bytes a second, shown as bits a second, which is how links are measured. */
export function bitRate(bytesPerSecond) {
  let bits = bytesPerSecond * 8;
  for (const unit of ["bit/s", "kbit/s", "Mbit/s"]) {
    if (bits < 1000) return `${bits < 10 && bits > 0 ? bits.toFixed(1) : Math.round(bits)} ${unit}`;
    bits /= 1000;
  }
  return `${bits.toFixed(2)} Gbit/s`;
}

/** A count with separators. */
export function count(number) {
  return Math.round(number).toLocaleString("en");
}

/** A time in seconds. */
export function span(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** An outer address with its port, as in URLs; a dash as long as there is none. */
export function endpoint(place) {
  return place ? `[${place.address}]:${place.port}` : "–";
}
