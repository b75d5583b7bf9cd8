// A chart of stacked bars.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Draws a bar for each of `samples`, the latest one at the right edge, with room for `kept` bars. A sample is an array with
 * one value for each colour. Returns the highest sum of a sample.
 */
export function draw(svg, samples, kept) {
  const { width, height } = svg.viewBox.baseVal;
  const sums = samples.map((values) => values.reduce((a, b) => a + b, 0));
  const most = Math.max(0, ...sums);
  const bar = width / kept;
  const bars = [];
  samples.forEach((values, nth) => {
    let top = height;
    values.forEach((value, colour) => {
      if (value === 0) return;
      // Even the smallest value gets a bar that can be seen.
      const high = Math.max(1.5, (value / most) * (height - 8));
      top -= high;
      const x = width - (samples.length - nth) * bar;
      bars.push(rectangle(colour, { x, y: top, width: bar * 0.85, height: high }));
    });
  });
  svg.replaceChildren(...bars);
  return most;
}

function rectangle(colour, sizes) {
  const made = document.createElementNS(SVG, "rect");
  made.setAttribute("class", `c${colour}`);
  for (const [name, size] of Object.entries(sizes)) made.setAttribute(name, size.toFixed(2));
  return made;
}
