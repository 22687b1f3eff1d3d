"use strict";
/* The differences of two lists of lines. Lines that differ in the numbers of values only (`%12`) are equal, since one new
 * op renumbers all that follow. Myers' algorithm; past `most` differences the middle counts as replaced whole. */
function diffLines(before, after, most = 1500) {
  const plain = line => line.replace(/%\d+/g, "%_");
  const a = before.map(plain), b = after.map(plain);
  let head = 0, tail = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const out = [];
  for (let i = 0; i < head; i++) out.push([" ", after[i]]);
  middle(a.slice(head, a.length - tail), b.slice(head, b.length - tail), most, (sign, i, j) =>
    out.push([sign, sign === "-" ? before[head + i] : after[head + j]]));
  for (let i = b.length - tail; i < b.length; i++) out.push([" ", after[i]]);
  return out;
}

function middle(a, b, most, emit) {
  const n = a.length, m = b.length, limit = Math.min(n + m, most), traces = [];
  const v = new Int32Array(2 * limit + 3), at = limit + 1;
  let found = -1;
  for (let d = 0; d <= limit && found < 0; d++) {
    traces.push(v.slice(at - d, at + d + 1));
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && v[at + k - 1] < v[at + k + 1]) ? v[at + k + 1] : v[at + k - 1] + 1;
      while (x < n && x - k < m && a[x] === b[x - k]) x++;
      v[at + k] = x;
      if (x >= n && x - k >= m) { found = d; break; }
    }
  }
  if (found < 0) {
    for (let i = 0; i < n; i++) emit("-", i, 0);
    for (let j = 0; j < m; j++) emit("+", 0, j);
    return;
  }
  const edits = [];
  let x = n, y = m;
  for (let d = found; d > 0; d--) {
    const get = k => traces[d][k + d], k = x - y;
    const down = k === -d || (k !== d && get(k - 1) < get(k + 1));
    const from = down ? k + 1 : k - 1, px = get(from), py = px - from;
    while (x > px && y > py) edits.push([" ", --x, --y]);
    edits.push(down ? ["+", x, --y] : ["-", --x, y]);
  }
  while (x > 0 && y > 0) edits.push([" ", --x, --y]);
  for (const [sign, i, j] of edits.reverse()) emit(sign, i, j);
}
