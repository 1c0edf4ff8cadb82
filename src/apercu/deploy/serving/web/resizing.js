// A picture as the classifier takes it: all of it, squashed, bilinear with antialiasing, as in
// Python. One axis is resized after the other, across first; strips of rows bound the memory.

const STRIP = 256;
const LUMA = [0.299, 0.587, 0.114];

// Which pixels make one of `count` new ones of `length` old ones, and how much each counts.
export function weigh(length, count) {
  const scale = length / count;
  const support = Math.max(1, scale);
  return Array.from({ length: count }, (_, index) => {
    const centre = scale * (index + 0.5);
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(length, Math.trunc(centre + support + 0.5));
    const weights = Float64Array.from({ length: last - first }, (_, step) =>
      Math.max(0, 1 - Math.abs(first + step - centre + 0.5) / support),
    );
    const sum = weights.reduce((all, weight) => all + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

// `read(top, rows)` gives RGBA bytes of some rows of a picture. Returns channels × rows × columns.
export function resize(read, [height, width], { channels, size: [rows, columns] }) {
  const across = weigh(width, columns);
  const down = weigh(height, rows);
  const narrow = new Float32Array(channels * height * columns);
  const line = new Float32Array(channels * width);
  for (let top = 0; top < height; top += STRIP) {
    const count = Math.min(STRIP, height - top);
    const bytes = read(top, count);
    for (let row = 0; row < count; row++) {
      unpack(bytes, 4 * row * width, line, width, channels);
      for (let channel = 0; channel < channels; channel++) {
        const to = (channel * height + top + row) * columns;
        for (let column = 0; column < columns; column++) {
          const { first, weights } = across[column];
          let sum = 0;
          for (let step = 0; step < weights.length; step++) sum += weights[step] * line[channel * width + first + step];
          narrow[to + column] = sum;
        }
      }
    }
  }
  const resized = new Float32Array(channels * rows * columns);
  for (let channel = 0; channel < channels; channel++) {
    for (let row = 0; row < rows; row++) {
      const { first, weights } = down[row];
      const to = (channel * rows + row) * columns;
      for (let column = 0; column < columns; column++) {
        let sum = 0;
        for (let step = 0; step < weights.length; step++) sum += weights[step] * narrow[(channel * height + first + step) * columns + column];
        resized[to + column] = sum;
      }
    }
  }
  return resized;
}

function unpack(bytes, from, line, width, channels) {
  for (let column = 0, at = from; column < width; column++, at += 4) {
    if (channels === 3) {
      for (let band = 0; band < 3; band++) line[band * width + column] = bytes[at + band] / 255;
    } else {
      line[column] = (LUMA[0] * bytes[at] + LUMA[1] * bytes[at + 1] + LUMA[2] * bytes[at + 2]) / 255;
    }
  }
}
