// Compose chains of transposes and drop those that move nothing.

// transpose(transpose(x, p), q) == transpose(x, r)   where r[i] = p[q[i]]
rule compose-transposes
  match   graph.transpose(inner @ graph.transpose(x)) -> y
  where   p = permutation(inner), q = permutation(y)
  rewrite graph.transpose(x) {perm = compose(p, q)}

// transpose(x, [0, 1, ..., n-1]) == x
rule drop-identity-transpose
  match   graph.transpose(x) -> y
  where   is_identity(permutation(y))
  rewrite x

// transpose(x, p) == reshape(x, p of its extents)   where p keeps the order of all axes whose extent is not 1
rule reshape-instead-of-moving-ones
  match   graph.transpose(x) -> y
  where   p = permutation(y), shape = extents(x), not is_identity(p), keeps_order(p, shape)
  rewrite graph.reshape(x, ints(compose(shape, p))) {allowzero = 1}

// transpose(pad(x, low ++ high), p) == pad(transpose(x, p), (low ++ high)[p])   which moves less, and what reads a pad may absorb it
rule pad-what-is-transposed
  match   graph.transpose(inner @ graph.pad(x, pads, value?) {mode = mode}) -> y
  where   one_use(inner), p = permutation(y), moved = compose_ends(integers(pads), p)
  sample  pads = repeated(1, 2 * rank(x)), mode = "constant"
  rewrite graph.pad(graph.transpose(x) {perm = p}, ints(moved), value) {mode = mode}
