"""Families of operators, as compilers see them: what one technique covers is one family."""

FAMILIES = {
    "elementwise unary": """
        Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid
        HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh
        Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu""",
    "elementwise n-ary": """
        Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean
        Min Mod Mul Or PRelu Pow Sub Sum SwiGLU Where Xor""",
    "cast": "BitCast Cast CastLike",
    "reduction": """
        ArgMax ArgMin CumProd CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
        ReduceProd ReduceSum ReduceSumSquare""",
    "normalization": """
        BatchNormalization GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax
        LpNormalization MeanVarianceNormalization RMSNormalization Softmax""",
    "loss": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "matmul": "Det Einsum Gemm MatMul",
    "attention": "Attention CausalConvWithState FlexAttention LinearAttention RotaryEmbedding",
    "convolution, pooling": """
        AveragePool Col2Im Conv ConvTranspose DeformConv GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool
        MaxPool MaxRoiPool MaxUnpool""",
    "layout": """
        CenterCropPad Concat DepthToSpace Expand Flatten Identity Pad Reshape ReverseSequence Shape Size Slice
        SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze""",
    "creation": "Constant ConstantOfShape EyeLike Range",
    "gather, scatter": """
        Gather GatherElements GatherND OneHot Scatter ScatterElements ScatterND TensorScatter""",
    "selection": "Compress NonMaxSuppression NonZero TopK Unique",
    "control flow": "If Loop Scan",
    "sequence, optional": """
        ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty
        SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence""",
    "string": "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer",
    "recurrent": "GRU LSTM RNN",
    "quantized": """
        ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul
        QuantizeLinear""",
    "image": "AffineGrid GridSample ImageDecoder Resize RoiAlign Upsample",
    "signal": "BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix STFT",
    "random": "Bernoulli Dropout",
    "classical ml": "ArrayFeatureExtractor Binarizer LabelEncoder TreeEnsemble",
    "training": "Adagrad Adam Gradient Momentum",
}
"""Family to its operators. A model of several operators is of the family `WHOLE`."""

WHOLE = "whole model"

NAMES = (*FAMILIES, WHOLE)

OF_OPERATOR = {operator: family for family, text in FAMILIES.items() for operator in text.split()}


def family_of(operators: set[str]) -> str:
    """The family of a model with these operators; constants and layout around one operator do not count."""
    telling = operators - {"Constant"} or operators
    families = {OF_OPERATOR.get(operator, WHOLE) for operator in telling}
    if len(families) > 1:
        families -= {"layout", "creation"}
    return families.pop() if len(families) == 1 else WHOLE
