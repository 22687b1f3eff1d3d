// Recognise squared ReLU. The op is defined in squared_relu.py, so rules that name it read that file first.

use "squared_relu.py"

// relu(x) * relu(x) == squared_relu(x)
rule recognise-squared-relu
  match   graph.mul(r @ graph.relu(x : tensor<*xfloat>), r)
  rewrite graph.squared_relu(x)

// squared_relu(relu(x)) == squared_relu(x)
rule drop-relu-before-square
  match   graph.squared_relu(graph.relu(x))
  rewrite graph.squared_relu(x)

// sqrt(squared_relu(x)) == relu(x)   up to rounding: the square of a small number may vanish
rule drop-root-of-square fp 1e-6
  match   graph.sqrt(graph.squared_relu(x : tensor<*xf32>))
  rewrite graph.relu(x)
