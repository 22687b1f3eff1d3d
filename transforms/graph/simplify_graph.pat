// Operators that change nothing, and shape computations whose result is known.

use stepwell.transforms.graph.shape_rules

// identity(x) == x
rule drop-identity
  match   graph.identity(x)
  rewrite x

// dropout(x) == x   when it does not train and nobody reads its mask, which is all true
rule drop-dropout
  match   graph.dropout(x, ratio?, training?) -> y, mask
  where   is_false(training)
  sample  training = truth(0)
  rewrite x, none

// f(x) == x   for an operator of several operands that has one
rule drop-single-operand for f in graph.concat | graph.max | graph.mean | graph.min | graph.sum
  match   f(x)
  rewrite x

// cast(x : T, T) == x
rule drop-same-cast
  match   graph.cast(x)
  rewrite x

// reshape(x, shape of x) == x
rule drop-same-reshape for f in graph.reshape | graph.expand
  match   f(x, shape) -> y
  where   known_extents(x), same_extents(x, y)
  sample  shape = shape_of(x)
  rewrite x

// flatten(x) == x   if x has two axes and the first is kept;  squeeze(x) == x   without an extent of 1
rule drop-same-flatten for f in graph.flatten | graph.squeeze
  match   f(x, rest...) -> y
  where   known_extents(x), same_extents(x, y)
  rewrite x

// slice(x) == x   in steps of 1 that keep all extents
rule drop-whole-slice
  match   graph.slice(x, starts, ends, axes?, steps?) -> y
  where   known_extents(x), same_extents(x, y), unit_steps(steps)
  sample  starts = repeated(0, rank(x)), ends = repeated(100, rank(x)), steps = repeated(1, rank(x))
  rewrite x

// tile(x, 1, ..., 1) == x
rule drop-single-tile
  match   graph.tile(x, counts)
  where   known = integers(counts), all_equal(known, 1)
  sample  counts = repeated(1, rank(x))
  rewrite x

// pad(x, 0, ..., 0) == x
rule drop-empty-pad
  match   graph.pad(x, pads, rest...)
  where   known = integers(pads), all_equal(known, 0)
  sample  pads = repeated(0, 2 * rank(x))
  rewrite x

// split(x, 1 part) == x
rule drop-single-split
  match   graph.split(x, parts?)
  sample  parts = none
  rewrite x

// clip(x) == x   without bounds
rule drop-unbounded-clip
  match   graph.clip(x)
  rewrite x

// where(true, x, y) == x
rule choose-known-branch
  match   graph.where(true, x, y)
  rewrite x

// where(false, x, y) == y
rule choose-other-branch
  match   graph.where(false, x, y)
  rewrite y

// x * 1 == x;  x / 1 == x;  x ** 1 == x
rule drop-unit-factor
  match   commutative graph.mul(x, 1 | 1.0)
  rewrite x

// x / 1 == x;  x ** 1 == x
rule drop-unit-divisor for f in graph.div | graph.pow
  match   f(x, 1 | 1.0)
  rewrite x

// x + 0 == x for integers;  x + -0.0 == x for floats, where x + 0.0 turns -0.0 into 0.0
rule drop-zero-summand
  match   commutative graph.add(x, 0 | -0.0)
  rewrite x

// x - 0 == x for integers;  x - 0.0 == x for floats
rule drop-zero-subtrahend
  match   graph.sub(x, 0 | 0.0)
  rewrite x

// and(x, true) == x
rule drop-true-of-and
  match   commutative graph.and(x, true)
  rewrite x

// or(x, false) == x;  xor(x, false) == x
rule drop-false-of-or for f in graph.or | graph.xor
  match   commutative f(x, false)
  rewrite x

// neg(neg(x)) == x;  not(not(x)) == x;  bitwise_not likewise
rule drop-double-negation for f in graph.neg | graph.not | graph.bitwise_not
  match   f(f(x))
  rewrite x

// relu(relu(x)) == relu(x);  the same for abs, ceil, floor, round, sign
rule drop-repeated for f in graph.abs | graph.ceil | graph.floor | graph.relu | graph.round | graph.sign
  match   f(y @ f(x))
  rewrite y

// reshape(reshape(x, s), t) == reshape(x, t)   where flatten, squeeze and unsqueeze are reshapes
rule compose-reshapes
    for f in graph.reshape | graph.flatten | graph.squeeze | graph.unsqueeze
    for g in graph.reshape | graph.flatten | graph.squeeze | graph.unsqueeze
  match   f(g(x, inner...), outer...) -> y
  where   shape = open_extents(y), count(shape, -1) <= 1, count(shape, 0) == 0
  sample  inner = reshaping(g, x), outer = reshaping(f, x)
  rewrite graph.reshape(x, ints(shape)) {allowzero = 0} : type(y)

// reshape(x, computed shape) == reshape(x, constant)   where all extents but one are numbers
rule settle-reshape
  match   graph.reshape(x, computed) -> y
  where   not is_constant(computed), shape = open_extents(y), count(shape, -1) <= 1, count(shape, 0) == 0
  rewrite graph.reshape(x, ints(shape)) {allowzero = 0} : type(y)

// An integer tensor of rank <= 1 whose elements are numbers by the shapes alone is a constant.
rule fold-shape-value benefit 2 for f in
    graph.add | graph.cast | graph.concat | graph.constant_of_shape | graph.div | graph.equal | graph.expand | graph.gather |
    graph.max | graph.min | graph.mod | graph.mul | graph.neg | graph.range | graph.reduce_max | graph.reduce_min |
    graph.reduce_prod | graph.reduce_sum | graph.reshape | graph.shape | graph.size | graph.slice | graph.split |
    graph.squeeze | graph.sub | graph.unsqueeze | graph.where
  match   f(operands...) -> y
  where   items = integers(y), shape = extents(y)
  sample  operands = shape_arithmetic(f)
  rewrite listed(items, y)

// average_pool(x) == global_average_pool(x)   if its one window covers every element of x and no padding
rule widen-average-pool
  match   graph.average_pool(x) {layout = layout} -> y
  where   covers_all(y, x)
  rewrite graph.global_average_pool(x) {layout = layout}

// max_pool(x) == global_max_pool(x)   if its one window covers every element of x and no padding
rule widen-max-pool
  match   graph.max_pool(x) {layout = layout} -> y
  where   covers_all(y, x)
  rewrite graph.global_max_pool(x) {layout = layout}
