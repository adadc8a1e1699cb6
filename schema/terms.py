"""The closed vocabulary of the taxonomy: every term with its title, definition, tagging rule and origin.

`source` says where a term and its place in a tree come from: a section of Cheng, Zhang & Shi (2024) or of He & Xiao (2024) as their
overview figures number it, their public paper lists, or "ours". Definitions and rules are the atlas's own words throughout; neither survey
is quoted.
"""

from dataclasses import dataclass
from enum import StrEnum

LISTED = "Cheng, Zhang & Shi, type letters of their paper list"


class Term(StrEnum):
    """A value of one axis. The member is its value, a `str`; its texts are plain attributes.

    Attributes:
        title: the name to show.
        definition: what the term means, one to three sentences.
        rule: when to give the tag, when not, and which neighbour to tell it from.
        source: where the term comes from; "ours" where no survey has it.
    """

    title: str  # type: ignore[assignment]  # shadows str.title(), which nobody needs on a tag
    definition: str
    rule: str
    source: str

    def __new__(cls, value: str, title: str = "", definition: str = "", rule: str = "", source: str = "") -> "Term":
        """Build a member; the defaults serve type checkers only, which read `When("run_time")` as a call of this."""
        term = str.__new__(cls, value)
        term._value_ = value
        term.title = title
        term.definition = definition
        term.rule = rule
        term.source = source
        return term


class Speedup(Term):
    """What the removal pattern demands before it runs faster."""

    UNSTRUCTURED = (
        "unstructured",
        "Unstructured",
        "Single weights are set to zero wherever the method likes, so tensors keep their shapes and only sparse kernels or special "
        "hardware run faster.",
        "Give it when single weights, parameters or connections go with no rule on where the zeros lie, ranking them per layer or per "
        "row included. Sparsity as what is measured or raised, in percent or not, means weights where no other unit is named. Not for "
        "zeros bound to N:M groups, blocks or patterns (semi_structured). Edges cut from an input graph count as unstructured too. Mere "
        "talk of pruning, compression or smaller networks is not enough.",
        "Cheng, Zhang & Shi, section 3.1",
    )
    SEMI_STRUCTURED = (
        "semi_structured",
        "Semi-structured",
        "Zeros follow a regular small pattern inside a tensor, such as two of every four, a fixed kernel shape or a block. Shapes "
        "stay, and kernels or hardware made for the pattern run faster.",
        "Give it for N:M groups, kernel patterns, single kernels, stripes, vectors, 1xN and weight blocks. Not when the whole unit "
        "leaves and the tensor shrinks (structured). A method shown both on free weights and on N:M gets unstructured as well.",
        "Cheng, Zhang & Shi, section 3.3",
    )
    STRUCTURED = (
        "structured",
        "Structured",
        "Whole units leave (filters, channels, neurons, heads, layers, experts, tokens), so what remains is a smaller dense network "
        "that runs faster on any hardware.",
        "Give it when the remaining computation is dense and smaller, whether for all inputs or chosen per input; token and expert "
        "removal count. A filter-wise score whose zeros stay in place for good is still structured.",
        "Cheng, Zhang & Shi, section 3.2",
    )


class Granularity(Term):
    """The smallest thing that is removed or kept as one."""

    WEIGHT = (
        "weight",
        "Weight",
        "One scalar parameter, that is one connection.",
        "Give it for every unstructured method on weights. For N:M sparsity give n_m_group instead, unless free sparsity is shown too.",
        LISTED,
    )
    N_M_GROUP = (
        "n_m_group",
        "N:M group",
        "A run of M consecutive weights of which exactly N are kept.",
        "Give it when a ratio such as 2:4, 4:8 or general N:M is named. 1xN (N weights removed together) is vector.",
        LISTED,
    )
    PATTERN = (
        "pattern",
        "Pattern",
        "The set of positions kept inside a kernel, taken from a small dictionary of allowed shapes.",
        "Give it for kernel-pattern pruning. A pattern that is just one kernel position across all channels is stripe; whole kernels "
        "(connectivity) are kernel.",
        "Cheng, Zhang & Shi, section 3.3",
    )
    VECTOR = (
        "vector",
        "Vector",
        "A short run of weights in one row or column that stays or goes together, such as 1xN.",
        "Give it when the run is shorter than a whole row, column or channel. Two-dimensional tiles are weight_block.",
        "ours",
    )
    WEIGHT_BLOCK = (
        "weight_block",
        "Weight block",
        "A rectangular tile of a weight matrix that stays or goes together.",
        "Give it for tiles inside one matrix, of whatever size. A block of layers of the network is block.",
        "ours",
    )
    KERNEL = (
        "kernel",
        "Kernel",
        "One two-dimensional slice of a convolution: the weights joining one input channel to one output channel.",
        "Give it when single slices go. A filter is the whole stack of slices that makes one output channel.",
        "ours",
    )
    STRIPE = (
        "stripe",
        "Stripe",
        "One spatial position of a filter across all its input channels.",
        "Give it for stripe-wise pruning and other per-position shapes of a filter. Positions chosen per kernel from a dictionary are "
        "pattern.",
        "ours",
    )
    FILTER = (
        "filter",
        "Filter",
        "All weights of a convolution that make one output channel.",
        "Give it when the list's letter is F or the paper says filters. The paper's words go before the "
        "letter: where it says channels give channel, and both only where it uses both words for what it removes.",
        LISTED,
    )
    CHANNEL = (
        "channel",
        "Channel",
        "One feature channel: a row, column or slice that runs through the layers which make and use it.",
        "Give it when the list's letter is C or the paper says channels, also for rows, columns or intermediate dimensions of "
        "transformer layers so called. Width of the whole residual stream is embedding_dimension.",
        LISTED,
    )
    NEURON = (
        "neuron",
        "Neuron",
        "One unit of a fully connected layer, a recurrent layer or a feed-forward block, with its incoming and outgoing weights.",
        "Give it when the list's letter is N or the paper says neurons, nodes or hidden units; single states of a state-space layer "
        "count. For convolutions take filter or channel.",
        LISTED,
    )
    HEAD = (
        "head",
        "Attention head",
        "One attention head with its query, key, value and output slices.",
        "Give it when heads or groups of heads leave. Dropping the whole attention sublayer is layer.",
        LISTED,
    )
    LAYER = (
        "layer",
        "Layer",
        "A whole layer or sublayer, so that the network becomes shallower.",
        "Give it for depth pruning, of transformer layers too, and for single attention or feed-forward sublayers. When the paper "
        "calls the removed unit a block, give block, and block alone where it uses both words for the same unit.",
        LISTED,
    )
    BLOCK = (
        "block",
        "Block",
        "A group of layers that the architecture repeats, such as a residual or transformer block.",
        "Give it when the list's letter is B or the paper says blocks of the network. Blocks of weights are weight_block; a single "
        "layer is layer.",
        LISTED,
    )
    EMBEDDING_DIMENSION = (
        "embedding_dimension",
        "Embedding dimension",
        "One coordinate of the hidden state that all blocks share, or of an embedding table.",
        "Give it when the width of the residual stream or of embeddings shrinks, or the list's letter is E. Inner widths of a block "
        "are neuron or channel.",
        LISTED,
    )
    MATRIX = (
        "matrix",
        "Matrix",
        "A whole weight matrix, or the rank components of its factors.",
        "Give it when the list's letter is M or entire matrices or ranks are dropped. Tiles of a matrix are weight_block.",
        LISTED,
    )
    TOKEN = (
        "token",
        "Token",
        "One element of the sequence that a transformer processes: a word piece or an image patch.",
        "Give it when tokens or patches leave the computation. Not for shorter key-value caches, which remove nothing from the network.",
        "ours",
    )
    EXPERT = (
        "expert",
        "Expert",
        "One expert of a mixture-of-experts layer.",
        "Give it when experts leave or merge away. Weights removed inside experts get weight or neuron.",
        "ours",
    )
    EDGE = (
        "edge",
        "Edge",
        "One edge of a graph: of the data graph that a graph network reads, or of a searched architecture's cell.",
        "Give it for graph sparsification and for operations cut from a supernet. Connections between neurons are weight.",
        "ours",
    )


class When(Term):
    """When, in the life of the network, the decision to remove is taken."""

    BEFORE_TRAINING = (
        "before_training",
        "Before training",
        "The mask is found on a network with its initial weights, which is trained afterwards.",
        "Give it when scoring needs no trained weights; a few gradient evaluations at initialization are fine. Networks searched in "
        "random weights and never trained belong here too. After some epochs of training it is early_training.",
        "Cheng, Zhang & Shi, section 4.1",
    )
    DURING_TRAINING = (
        "during_training",
        "During training",
        "Removal goes along with the training of the weights from the start, by a schedule, a penalty, or masks that change.",
        "Give it when pruning and the main training are one run from random or given weights. A pretrained network that is pruned and "
        "then fine-tuned, even gradually, is after_training.",
        "Cheng, Zhang & Shi, section 4.2",
    )
    EARLY_TRAINING = (
        "early_training",
        "Early in training",
        "The network trains for a small part of its budget, is pruned for good then, and the rest of training runs on what remains.",
        "Give it when the paper finds a point of time early in training. Rewinding to an early state after full training is "
        "after_training.",
        "Cheng, Zhang & Shi, paper list 1.1.4",
    )
    AFTER_TRAINING = (
        "after_training",
        "After training",
        "A trained network is pruned, with or without a recovery afterwards.",
        "Give it for pretrained weights, from train-prune-fine-tune to post-training pruning, and for lottery tickets found by "
        "training to the end. A penalty during one training run, followed by a cut, is during_training.",
        "Cheng, Zhang & Shi, section 4.3",
    )
    RUN_TIME = (
        "run_time",
        "At run time",
        "What is computed is chosen anew for every input; the full network stays stored.",
        "Give it when the part that runs depends on the input. Token removal by content counts. A mask that merely changes while "
        "training is during_training.",
        "Cheng, Zhang & Shi, section 4.4",
    )


class How(Term):
    """By what the method knows, or learns, what to remove: a criterion or a way to learn."""

    MAGNITUDE = (
        "magnitude",
        "Magnitude",
        "Single weights with small absolute value are removed first.",
        "Give it for |w| of single weights, also inside a schedule or a lottery ticket. The norm of a group of weights is lp_norm; |w| "
        "scaled by input activations gets activation as well.",
        "Cheng, Zhang & Shi, section 5.1",
    )
    LP_NORM = (
        "lp_norm",
        "Norm of a group",
        "A filter, channel, head or other group is ranked by an l1, l2 or similar norm of its weights.",
        "Give it when the group's own weights are the score. A norm used as a penalty in the loss is sparsity_regularization; single "
        "weights are magnitude.",
        "Cheng, Zhang & Shi, section 5.2",
    )
    SENSITIVITY = (
        "sensitivity",
        "Sensitivity",
        "The score is how strongly the loss, or another scalar of the network, reacts to a gate or weight: a derivative, usually times "
        "the weight.",
        "Give it for first derivatives named sensitivity, saliency, synaptic flow, gradient or first-order importance. When the paper "
        "says that it estimates the change of the loss by a Taylor expansion, give loss_change. A score of what pruning does to the "
        "gradient itself is gradient_flow.",
        "Cheng, Zhang & Shi, section 5.3",
    )
    LOSS_CHANGE = (
        "loss_change",
        "Loss change",
        "The score estimates by how much the loss rises when the unit goes, with first- or second-order terms of a Taylor expansion.",
        "Give it when the paper calls it a Taylor, Hessian, Fisher or loss-difference estimate. The error of one layer's output is "
        "reconstruction, although its Hessian is used alike; a bare derivative is sensitivity.",
        "Cheng, Zhang & Shi, section 5.4",
    )
    SPARSITY_REGULARIZATION = (
        "sparsity_regularization",
        "Sparsity regularization",
        "A penalty in the training loss drives weights, groups or scaling factors towards zero, and what is near zero is cut.",
        "Give it for l1, l0, group lasso, growing penalties and penalties on gates or batch-norm scales. A hard constraint solved by "
        "ADMM or projection is constrained_optimization; a prior with a posterior is variational_bayesian.",
        "Cheng, Zhang & Shi, section 6.1",
    )
    META_LEARNING = (
        "meta_learning",
        "Meta-learning",
        "A network generates weights, or learns over many pruned networks, so that candidates can be judged without training each.",
        "Give it for hypernetworks and for learning to prune across tasks or networks. A network that only foretells scores or masks "
        "is learned_predictor.",
        "Cheng, Zhang & Shi, section 6.2",
    )
    GRAPH_NEURAL_NETWORK = (
        "graph_neural_network",
        "Graph neural network",
        "A graph network reads the network to be pruned as a graph and helps to decide.",
        "Give it when the pruning tool is a graph network. When graph networks are what is pruned, tag the network axis only.",
        "Cheng, Zhang & Shi, section 6.3",
    )
    REINFORCEMENT_LEARNING = (
        "reinforcement_learning",
        "Reinforcement learning",
        "An agent chooses ratios, units or actions and learns from the reward of the pruned network.",
        "Give it when the pruning decision is a policy learned by reward. Pruning an agent's network is an application, not this.",
        "Cheng, Zhang & Shi, section 6.4",
    )
    RANDOM = (
        "random",
        "Random",
        "What goes is drawn by chance, with at most the layers' ratios planned.",
        "Give it when random removal is the method or the thing studied, not when it is merely a baseline. Random weights with a "
        "learned mask are learned_mask.",
        "ours",
    )
    GRADIENT_FLOW = (
        "gradient_flow",
        "Gradient flow",
        "Units are kept so that training signals survive: gradient norm, singular values, paths or the tangent kernel of the pruned "
        "network.",
        "Give it when the trainability after pruning is the criterion, the spectrum of a Jacobian included. The loss's own derivative "
        "by a weight is sensitivity.",
        "ours",
    )
    ACTIVATION = (
        "activation",
        "Activation",
        "The score is read from what units output on data: size, zeros, rank or variance.",
        "Give it when feature maps, attention scores, routing counts, outliers or inputs enter the score. When a layer's output is to "
        "be matched, reconstruction instead; when outputs are compared with one another, similarity; the rank of feature maps is "
        "spectral too.",
        "ours",
    )
    RECONSTRUCTION = (
        "reconstruction",
        "Reconstruction",
        "What to remove, and how to repair what stays, follows from keeping a layer's, a block's or the network's outputs on "
        "calibration data.",
        "Give it for output-error objectives, layer-wise solvers and least-squares repairs; activation need not stand beside it. "
        "Estimating the task loss instead is loss_change.",
        "ours",
    )
    SIMILARITY = (
        "similarity",
        "Similarity",
        "Units that resemble others are redundant: distance, correlation, clustering or dependence between filters, neurons, layers or "
        "feature maps.",
        "Give it when units are compared with each other, for layers also when input and output are compared. Score of one unit on its "
        "own: activation or lp_norm.",
        "ours",
    )
    LEARNED_MASK = (
        "learned_mask",
        "Learned mask",
        "Mask values or scores are parameters trained by gradient descent through a relaxation or a straight-through estimator.",
        "Give it when a gate or score per unit is learned for all inputs alike; that the paper says it learns masks, gates or "
        "connections is enough. With a penalty on the gates add "
        "sparsity_regularization; gates computed from the input are input_gating; a search over widths or architectures is "
        "differentiable_search.",
        "ours",
    )
    LEARNED_PREDICTOR = (
        "learned_predictor",
        "Learned predictor",
        "A separate model foretells what to keep, the accuracy or the cost of a pruned network.",
        "Give it for accuracy predictors, surrogate models and mask-writing networks used offline. Per-input gates are input_gating, "
        "weight-writing networks meta_learning.",
        "ours",
    )
    DROP_AND_GROW = (
        "drop_and_grow",
        "Drop and grow",
        "Connections or units are dropped and others revived while training, so that the sparse structure moves.",
        "Give it for dynamic sparse training and for soft pruning that lets removed filters return. A mask that only shrinks is not this.",
        "ours",
    )
    INPUT_GATING = (
        "input_gating",
        "Input gating",
        "Gates computed from the present input decide which channels, layers, heads or tokens run.",
        "Give it with when: run_time, if a gate, router or selector is said to be learned or to read the input. A selector that is not "
        "explained gives no tag; a mask learned once for all inputs is learned_mask.",
        "ours",
    )
    VARIATIONAL_BAYESIAN = (
        "variational_bayesian",
        "Variational Bayesian",
        "Weights or groups get a sparsity-inducing prior, and a posterior or its approximation says what to drop.",
        "Give it when posterior, prior or variational dropout is what prunes. A plain penalty is sparsity_regularization; Bayesian "
        "optimization of ratios is other.",
        "ours; He & Xiao, section 2.4.2, have it as a family",
    )
    EVOLUTIONARY_SEARCH = (
        "evolutionary_search",
        "Evolutionary search",
        "A population of pruned networks or ratios is varied and selected; swarm and colony methods count.",
        "Give it when candidates are evolved. Weights generated for candidates add meta_learning.",
        "ours; He & Xiao, section 2.6.3, have it as a family",
    )
    DIFFERENTIABLE_SEARCH = (
        "differentiable_search",
        "Differentiable search",
        "Ratios, widths or the architecture are relaxed to continuous variables and found by gradient descent.",
        "Give it when layer ratios or sizes are searched by gradient. A gate for every single unit is learned_mask.",
        "ours; He & Xiao, section 2.6.2, have it as a family",
    )
    CONSTRAINED_OPTIMIZATION = (
        "constrained_optimization",
        "Constrained optimization",
        "Pruning is an explicit problem with a constraint or budget, solved by ADMM, projection, proximal, integer or combinatorial "
        "methods.",
        "Give it when the solver or the constraint is what is new. Merely meeting a target ratio does not count; a soft penalty is "
        "sparsity_regularization.",
        "ours",
    )
    SPECTRAL = (
        "spectral",
        "Spectral",
        "Singular values, eigenvalues, rank or frequency content decide.",
        "Give it for SVD, PCA, rank of feature maps, spectral norms, expander graphs and Fourier or cosine coefficients. The "
        "spectrum of a Jacobian or tangent kernel is gradient_flow alone; a low-rank repair of what was cut is only a fusion.",
        "ours",
    )
    INFORMATION = (
        "information",
        "Information",
        "Entropy, mutual information, an information bottleneck or a description length decides.",
        "Give it when an information measure is the score or the objective. A correlation is similarity.",
        "ours",
    )
    REWINDING = (
        "rewinding",
        "Rewinding",
        "Surviving weights, or the learning rate, go back to an earlier point of training and training runs again.",
        "Give it when tickets found by training and cutting are what the paper makes or examines, the word rewinding being absent or "
        "not, beside the criterion that finds the mask, and set settings.recovery to rewinding as well. Not for strong or early "
        "tickets, and not for a theory of why tickets exist.",
        "ours",
    )
    OTHER = (
        "other",
        "Other",
        "A criterion or way of learning that no other value covers; the record's note names it.",
        "Give it last, with how_note; for example Shapley values, relevance propagation, Bayesian optimization, or the loss measured "
        "with the unit removed. Never beside a value that fits, and never for unknown.",
        "ours",
    )


class Fusion(Term):
    """The other compression that the paper joins with pruning."""

    QUANTIZATION = (
        "quantization",
        "Quantization",
        "Pruning is joined with fewer bits per weight or activation.",
        "Give it when the method does both, binary networks included. A remark that the result can also be quantized does not count.",
        "Cheng, Zhang & Shi, section 8.1",
    )
    TENSOR_DECOMPOSITION = (
        "tensor_decomposition",
        "Tensor decomposition",
        "Pruning is joined with low-rank or tensor factors of the weights.",
        "Give it when low-rank factors replace or accompany pruned weights in the result. Low-rank adapters used to recover do not count.",
        "Cheng, Zhang & Shi, section 8.2",
    )
    NAS = (
        "nas",
        "Neural architecture search",
        "Pruning is joined with a search over architectures.",
        "Give it when operators, topology or a supernet are searched, or the paper calls itself architecture search. Ratios found by "
        "evolution or gradient alone: how.",
        "Cheng, Zhang & Shi, section 8.3",
    )
    KNOWLEDGE_DISTILLATION = (
        "knowledge_distillation",
        "Knowledge distillation",
        "Pruning is joined with learning from a teacher's outputs or features.",
        "Give it when distillation is part of the method as the paper tells it. Matching a layer's own dense output is how: "
        "reconstruction.",
        "Cheng, Zhang & Shi, section 8.4",
    )


class StructuredFamily(Term):
    """The technique families that He & Xiao sort structured CNN pruning into."""

    FILTER_NORM = (
        "filter_norm",
        "Filter norm",
        "Filters are ranked by the norm of their own weights.",
        "Give it where He & Xiao's figure places the paper, or a CNN method ranks filters by norm. Comparing filters is "
        "filter_correlation.",
        "He & Xiao, section 2.1.1",
    )
    FILTER_CORRELATION = (
        "filter_correlation",
        "Filter correlation",
        "Filters are judged by their relation to the other filters of the network, without data.",
        "Give it where the figure places the paper, or redundancy is read from the weights. Redundancy of feature maps is "
        "current_layer; where filters are compared and the text leaves open by what, give neither.",
        "He & Xiao, section 2.1.2",
    )
    CURRENT_LAYER = (
        "current_layer",
        "Activations of the current layer",
        "The feature maps of the layer itself tell which of its channels matter.",
        "Give it where the figure places the paper, or the score uses the layer's own activations. The next layer's response is "
        "adjacent_layer.",
        "He & Xiao, section 2.2.1",
    )
    ADJACENT_LAYER = (
        "adjacent_layer",
        "Activations of an adjacent layer",
        "A channel is judged by what its neighbour layer makes of it.",
        "Give it where the figure places the paper, or the next layer's output is matched. Effects carried to the network's end are "
        "all_layers.",
        "He & Xiao, section 2.2.2",
    )
    ALL_LAYERS = (
        "all_layers",
        "Activations of all layers",
        "A channel is judged by its effect through the whole network.",
        "Give it where the figure places the paper, or importance is propagated through all layers from data. Taylor estimates of the "
        "loss are taylor.",
        "He & Xiao, section 2.2.3",
    )
    BN_PARAMETERS = (
        "bn_parameters",
        "Regularized batch-norm parameters",
        "The scales or shifts of batch normalization act as the channels' gates.",
        "Give it where the figure places the paper, or batch-norm parameters are penalized, scored or recalibrated. Added gates are "
        "extra_parameters.",
        "He & Xiao, section 2.3.1",
    )
    EXTRA_PARAMETERS = (
        "extra_parameters",
        "Regularized extra parameters",
        "Gates or scales added to the network are trained towards zero.",
        "Give it where the figure places the paper, or new parameters carry the sparsity. Penalties on the filters' weights are filters.",
        "He & Xiao, section 2.3.2",
    )
    FILTERS = (
        "filters",
        "Regularized filters",
        "The filters' own weights are penalized in groups.",
        "Give it where the figure places the paper, or group penalties act on weights. Penalties on batch-norm scales are bn_parameters.",
        "He & Xiao, section 2.3.3",
    )
    TAYLOR = (
        "taylor",
        "Taylor expansion",
        "A first- or second-order expansion of the loss ranks filters.",
        "Give it where the figure places the paper, or a CNN method removes units by how: loss_change.",
        "He & Xiao, section 2.4.1",
    )
    VARIATIONAL_BAYESIAN = (
        "variational_bayesian",
        "Variational Bayesian",
        "A posterior over groups of weights says which groups go.",
        "Give it where the figure places the paper, or a CNN method removes units by how: variational_bayesian.",
        "He & Xiao, section 2.4.2",
    )
    OTHERS = (
        "others",
        "Other optimization",
        "Other tools of optimization, such as special gradient descent, ADMM or Bayesian optimization.",
        "Give it where the figure places the paper, or the new thing is such a solver. Searches are reinforcement_learning, "
        "gradient_based or evolutionary.",
        "He & Xiao, section 2.4.3",
    )
    DYNAMIC_TRAINING = (
        "dynamic_training",
        "Dynamic during training",
        "The set of removed filters changes while training, and filters may return.",
        "Give it where the figure places the paper, or structured units are pruned softly or regrown. Choice per input is "
        "dynamic_inference.",
        "He & Xiao, section 2.5.1",
    )
    DYNAMIC_INFERENCE = (
        "dynamic_inference",
        "Dynamic during inference",
        "Each input gets its own channels or layers.",
        "Give it where the figure places the paper, or a CNN method has when: run_time.",
        "He & Xiao, section 2.5.2",
    )
    REINFORCEMENT_LEARNING = (
        "reinforcement_learning",
        "Search by reinforcement learning",
        "An agent finds the widths of the pruned network.",
        "Give it where the figure places the paper, or a structured CNN method has how: reinforcement_learning.",
        "He & Xiao, section 2.6.1",
    )
    GRADIENT_BASED = (
        "gradient_based",
        "Gradient-based search",
        "Widths or choices are relaxed and searched by gradient descent.",
        "Give it where the figure places the paper, or a structured CNN method has how: differentiable_search.",
        "He & Xiao, section 2.6.2",
    )
    EVOLUTIONARY = (
        "evolutionary",
        "Evolutionary search",
        "Pruned candidates are evolved.",
        "Give it where the figure places the paper, or a structured CNN method has how: evolutionary_search.",
        "He & Xiao, section 2.6.3",
    )
    LOTTERY_TICKET = (
        "lottery_ticket",
        "Lottery ticket",
        "Structured tickets, early tickets, and whether pruned architectures train from scratch.",
        "Give it where the figure places the paper, or a structured CNN paper speaks of tickets. Unstructured tickets have no family.",
        "He & Xiao, section 2.7.1",
    )
    JOINT_COMPRESSION = (
        "joint_compression",
        "Joint compression",
        "Structured pruning together with another kind of compression.",
        "Give it where the figure places the paper, or a structured CNN method has a fusion tag and its how names no other family.",
        "He & Xiao, section 2.7.2",
    )
    SPECIAL_GRANULARITY = (
        "special_granularity",
        "Special granularity",
        "Units between a weight and a filter, or unusual ones: stripes, patterns, groups of kernels, blocks.",
        "Give it where the figure places the paper, or a CNN method removes stripes, patterns, kernels or other shapes of filters.",
        "He & Xiao, section 2.7.3",
    )


class Passes(Term):
    """In how many steps the wanted sparsity is reached."""

    ONE_SHOT = (
        "one_shot",
        "One-shot",
        "Units are scored once and cut to the target at once.",
        "Give it when the paper says one-shot or single-shot, or clearly cuts once; layer after layer, each cut once, counts. Repeated "
        "cuts are iterative.",
        "Cheng, Zhang & Shi, section 7.2",
    )
    ITERATIVE = (
        "iterative",
        "Iterative",
        "Scoring and cutting repeat, with or without training in between.",
        "Give it for gradual, progressive or repeated pruning and for masks that keep changing. Long fine-tuning after one cut is "
        "one_shot.",
        "Cheng, Zhang & Shi, section 7.2",
    )


class Data(Term):
    """Whether deciding what to remove needs data."""

    DATA_FREE = (
        "data_free",
        "Data-free",
        "What goes is decided without a single example.",
        "Give it when the score needs weights or structure only, even if data is used to recover. Made-up inputs (all ones, "
        "synthesized images) are data_free.",
        "Cheng, Zhang & Shi, section 7.3",
    )
    DATA_DRIVEN = (
        "data_driven",
        "Data-driven",
        "Examples, labelled or not, enter the decision.",
        "Give it when activations, gradients, a loss, a reward or a trained gate decide, as follows from most values of how. Magnitude "
        "of trained weights alone is data_free.",
        "Cheng, Zhang & Shi, section 7.3",
    )


class Weights(Term):
    """The state of the weights that the decision looks at."""

    INITIALIZED = (
        "initialized",
        "Initialized",
        "Scoring starts from random initial weights.",
        "Give it with before_training, and with during_training when the run begins at random weights.",
        "Cheng, Zhang & Shi, section 7.4",
    )
    PRETRAINED = (
        "pretrained",
        "Pre-trained",
        "Scoring looks at weights that are already trained.",
        "Give it with after_training, and wherever pruning starts from a pretrained model.",
        "Cheng, Zhang & Shi, section 7.4",
    )


class Scope(Term):
    """How far units compete with each other."""

    GLOBAL = (
        "global",
        "Global",
        "Units of all layers are ranked together or share one budget.",
        "Give it for one ranking, threshold or budget over the whole network, for ratios allotted to layers by comparing them, and for "
        "every search of widths or sub-networks by an agent, evolution, a gradient or a solver. Fixed equal ratios per layer are local.",
        "Cheng, Zhang & Shi, section 7.5",
    )
    LOCAL = (
        "local",
        "Local",
        "Units compete inside their layer, row or group only.",
        "Give it for per-layer and per-row choices, for N:M and uniform 1xN, and for objectives solved layer after layer. Ratios found "
        "by comparing layers are global.",
        "Cheng, Zhang & Shi, section 7.5",
    )


class Recovery(Term):
    """What happens to the remaining weights afterwards."""

    NONE = (
        "none",
        "None",
        "The pruned network is used without further training; a closed-form repair is allowed.",
        "Give it when the paper says no retraining or fine-tuning. Unknown is an empty list, never none.",
        "ours",
    )
    FINE_TUNING = (
        "fine_tuning",
        "Fine-tuning",
        "Training goes on from the remaining weights.",
        "Give it when retraining, fine-tuning, healing or continued training after the cut is named. Starting from new weights is "
        "from_scratch.",
        "Cheng, Zhang & Shi, section 7.6",
    )
    FROM_SCRATCH = (
        "from_scratch",
        "Training from scratch",
        "The pruned structure is trained from initial weights.",
        "Give it for pruning before training and for pruned architectures trained anew. Weights of an early training step are rewinding.",
        "Cheng, Zhang & Shi, section 7.6",
    )
    REWINDING = (
        "rewinding",
        "Rewinding",
        "Weights or learning rate return to an earlier state of the same run, and training repeats.",
        "Give it for lottery tickets, at step zero or later, and for learning-rate rewinding. New random weights are from_scratch.",
        "ours",
    )


class Transfer(Term):
    """The task for which the pruned network is used."""

    ORIGINAL_TASK = (
        "original_task",
        "Original task",
        "Pruned and used on one task.",
        "Give it only when the paper sets both against each other. Otherwise leave the list empty.",
        "Cheng, Zhang & Shi, section 7.7",
    )
    TRANSFER = (
        "transfer",
        "Transfer",
        "Pruned on one task or data set and used on another, or pruned while being transferred.",
        "Give it when tickets or masks are transferred, or pruning happens upstream of or during fine-tuning to a new task and the "
        "paper makes a point of it.",
        "Cheng, Zhang & Shi, section 7.7",
    )


class Supervision(Term):
    """What labels the pruning decision uses."""

    SUPERVISED = (
        "supervised",
        "Supervised",
        "Labels enter the decision or the training that carries it.",
        "Give it when the text speaks of labels or supervision in the pruning itself. That the task is classification is not enough.",
        "ours; the axis is Cheng, Zhang & Shi, section 7.10",
    )
    SEMI_SUPERVISED = (
        "semi_supervised",
        "Semi-supervised",
        "Few labels together with many unlabelled examples.",
        "Give it when the paper says so. A small calibration set is not enough.",
        "ours; the axis is Cheng, Zhang & Shi, section 7.10",
    )
    SELF_SUPERVISED = (
        "self_supervised",
        "Self-supervised",
        "The target is made from the data itself: contrast, masking, next token.",
        "Give it when pretext losses guide pruning, the language-modelling loss included. Matching dense outputs is unsupervised.",
        "ours; the axis is Cheng, Zhang & Shi, section 7.10",
    )
    UNSUPERVISED = (
        "unsupervised",
        "Unsupervised",
        "Unlabelled examples only, with no pretext target.",
        "Give it for calibration by activations or output matching without labels. A language-modelling loss is self_supervised.",
        "ours; the axis is Cheng, Zhang & Shi, section 7.10",
    )


class Network(Term):
    """The families of networks that the paper prunes or speaks of."""

    MLP = (
        "mlp",
        "Multilayer perceptron",
        "Fully connected feed-forward networks.",
        "Give it when such a network is the example or the object of a theorem. Feed-forward blocks of a transformer do not count.",
        "ours",
    )
    CNN = (
        "cnn",
        "Convolutional network",
        "Networks made of convolutions: LeNet, VGG, ResNet, MobileNet and kin.",
        "Give it when convolutions, filters or such a network are named, or the survey's list files the paper under CNNs. A data set "
        "of images alone is not enough; hybrid detectors and segmenters with convolutional backbones count.",
        "ours",
    )
    RNN = (
        "rnn",
        "Recurrent network",
        "LSTM, GRU and other recurrent networks.",
        "Give it when named. State-space layers are state_space_model.",
        "ours",
    )
    VISION_TRANSFORMER = (
        "vision_transformer",
        "Vision transformer",
        "Transformers for images: ViT, DeiT, Swin and kin.",
        "Give it when named. Models joining image and text are multimodal_model.",
        "ours",
    )
    LANGUAGE_ENCODER = (
        "language_encoder",
        "Language encoder",
        "Transformers that encode text: BERT, RoBERTa and kin.",
        "Give it when named or when the paper speaks of pre-trained language models tested on GLUE or SQuAD. Billions of parameters: "
        "large_language_model.",
        "ours",
    )
    SEQUENCE_TO_SEQUENCE = (
        "sequence_to_sequence",
        "Encoder-decoder transformer",
        "Transformers with an encoder and a decoder for text, as in translation or T5.",
        "Give it when named. Recurrent encoder-decoders are rnn; speech ones speech_model.",
        "ours",
    )
    LARGE_LANGUAGE_MODEL = (
        "large_language_model",
        "Large language model",
        "Generative decoder transformers: GPT, OPT, LLaMA and kin.",
        "Give it for decoder language models of any size. With an image encoder: multimodal_model.",
        "ours",
    )
    MULTIMODAL_MODEL = (
        "multimodal_model",
        "Multimodal model",
        "Models that join modalities, mostly vision and language: CLIP, BLIP, LLaVA and kin.",
        "Give it when both modalities go through the pruned model. Text-to-image diffusion is diffusion_model.",
        "ours",
    )
    MIXTURE_OF_EXPERTS = (
        "mixture_of_experts",
        "Mixture of experts",
        "Networks whose layers route inputs to experts.",
        "Give it when the pruned model has experts, beside large_language_model where it is one.",
        "ours",
    )
    STATE_SPACE_MODEL = (
        "state_space_model",
        "State-space model",
        "Selective and structured state-space networks: Mamba, S4 and kin.",
        "Give it when named. LSTM and GRU are rnn.",
        "ours",
    )
    DIFFUSION_MODEL = (
        "diffusion_model",
        "Diffusion model",
        "Generative networks that denoise step by step, with a U-Net or transformer inside.",
        "Give it when named; the inner network needs no tag of its own.",
        "ours",
    )
    GAN = (
        "gan",
        "Generative adversarial network",
        "Generators trained against a discriminator.",
        "Give it when a generator or discriminator is pruned; its convolutions need no tag of their own. Adversarial losses used to "
        "prune a classifier do not count.",
        "ours",
    )
    GRAPH_NETWORK = (
        "graph_network",
        "Graph neural network",
        "Networks that read graphs.",
        "Give it when a graph network or its input graph is pruned. A graph network that does the pruning is how: graph_neural_network.",
        "ours",
    )
    SPIKING_NETWORK = (
        "spiking_network",
        "Spiking network",
        "Networks that compute with spikes.",
        "Give it when named.",
        "ours",
    )
    SPEECH_MODEL = (
        "speech_model",
        "Speech model",
        "Transformers and hybrids made for speech: wav2vec 2.0, conformers, Whisper and kin.",
        "Give it when a speech architecture is pruned. A plain LSTM for speech is rnn.",
        "ours",
    )
    BINARY_NETWORK = (
        "binary_network",
        "Binary network",
        "Networks whose weights, and perhaps activations, have one bit.",
        "Give it when weights are binary, with fusion: quantization where the method makes them so. Two bits and more need no network tag.",
        "ours",
    )
    OTHER = (
        "other",
        "Other network",
        "A family without a value of its own: autoencoders, flows, neural differential equations, point-cloud networks, reservoirs.",
        "Give it when the family is named and none of the others fits. Complex or Bayesian weights make no family.",
        "ours",
    )


class Application(Term):
    """The tasks on which the paper shows its results, and the purposes it prunes for."""

    IMAGE_CLASSIFICATION = (
        "image_classification",
        "Image classification",
        "One label per image: MNIST, CIFAR, ImageNet and kin.",
        "Give it when the task, such a data set, or top-1 accuracy is named. Detection and segmentation have their own values.",
        "ours",
    )
    OBJECT_DETECTION = (
        "object_detection",
        "Object detection",
        "Boxes around objects, in images or in three dimensions.",
        "Give it when named, or when COCO or VOC detection is. Pixel masks are segmentation.",
        "ours",
    )
    SEGMENTATION = (
        "segmentation",
        "Segmentation",
        "A label per pixel or region; dense prediction such as depth too.",
        "Give it when named. Medical segmentation adds medical_imaging.",
        "ours",
    )
    IMAGE_GENERATION = (
        "image_generation",
        "Image generation",
        "Images made, translated between styles or domains, or edited.",
        "Give it when the output is a new image, and for image diffusion models and image generators by name (SDXL, DiT, conditional "
        "GANs) even where the abstract says only sampling. Repair of a given image is image_restoration.",
        "ours",
    )
    IMAGE_RESTORATION = (
        "image_restoration",
        "Image restoration",
        "Super-resolution, denoising, deraining and compression of images.",
        "Give it when a degraded image is repaired. Free synthesis is image_generation.",
        "ours",
    )
    POSE_ESTIMATION = (
        "pose_estimation",
        "Pose estimation",
        "Key points of bodies or hands.",
        "Give it when named.",
        "ours",
    )
    VIDEO = (
        "video",
        "Video",
        "Action recognition, tracking and other tasks on image sequences.",
        "Give it when videos or tracking are named. Single frames are the image tasks.",
        "ours",
    )
    POINT_CLOUDS = (
        "point_clouds",
        "Point clouds",
        "Recognition in three-dimensional points.",
        "Give it when points or lidar are the input, beside object_detection where boxes are found.",
        "ours",
    )
    IMAGE_RETRIEVAL = (
        "image_retrieval",
        "Image retrieval",
        "Retrieval and recognition by features: faces, persons, places.",
        "Give it when images are matched. Text-image matching is vision_language.",
        "ours",
    )
    MEDICAL_IMAGING = (
        "medical_imaging",
        "Medical data",
        "Images or signals of medicine.",
        "Give it when medical data is the task, beside the task's kind.",
        "ours",
    )
    LANGUAGE_UNDERSTANDING = (
        "language_understanding",
        "Language understanding",
        "Classification and inference on text: GLUE, sentiment, entailment.",
        "Give it when such tasks or GLUE are named, or the list says NLP of a language encoder. Extractive answers are "
        "question_answering; zero-shot common sense of language models is reasoning.",
        "ours",
    )
    LANGUAGE_MODELING = (
        "language_modeling",
        "Language modelling",
        "Foretelling words, measured by perplexity.",
        "Give it when perplexity, language modelling or large language models as such are named. Tasks asked of the model get their "
        "own values besides.",
        "ours",
    )
    QUESTION_ANSWERING = (
        "question_answering",
        "Question answering",
        "Answers to questions about a text or the world: SQuAD and kin.",
        "Give it when named. Questions about images are vision_language.",
        "ours",
    )
    REASONING = (
        "reasoning",
        "Reasoning",
        "Common sense, zero-shot choice, mathematics and knowledge tests of language models.",
        "Give it when reasoning, zero-shot or few-shot tasks or such benchmarks (MMLU, GSM8K, HellaSwag) are named.",
        "ours",
    )
    MACHINE_TRANSLATION = (
        "machine_translation",
        "Machine translation",
        "Text from one language into another.",
        "Give it when translation of language is named. Image translation is image_generation.",
        "ours",
    )
    TEXT_GENERATION = (
        "text_generation",
        "Text generation",
        "Summaries, dialogue, instructions followed, code.",
        "Give it when such outputs are named. Perplexity alone is language_modeling.",
        "ours",
    )
    SPEECH_AUDIO = (
        "speech_audio",
        "Speech and audio",
        "Speech recognition, speaker tasks, sound and music.",
        "Give it when named.",
        "ours",
    )
    VISION_LANGUAGE = (
        "vision_language",
        "Vision and language",
        "Questions about images, captions, retrieval across image and text.",
        "Give it when both modalities are needed. Pure image tasks of such models keep their own value.",
        "ours",
    )
    REINFORCEMENT_LEARNING = (
        "reinforcement_learning",
        "Reinforcement learning",
        "Agents, control and robots.",
        "Give it when the pruned network is an agent's. An agent that prunes is how: reinforcement_learning.",
        "ours",
    )
    GRAPH_LEARNING = (
        "graph_learning",
        "Graph learning",
        "Classifying nodes or graphs, foretelling links.",
        "Give it when the data is a graph.",
        "ours",
    )
    RECOMMENDATION = (
        "recommendation",
        "Recommendation",
        "Ranking items for users, clicks, advertisements.",
        "Give it when named.",
        "ours",
    )
    SIGNALS = (
        "signals",
        "Signals and tables",
        "Time series, wireless signals, sensors, tables and scientific data.",
        "Give it when such data is the task. Speech is speech_audio.",
        "ours",
    )
    ADVERSARIAL_ROBUSTNESS = (
        "adversarial_robustness",
        "Robustness",
        "Staying right under attack, corruption or a shift of the data.",
        "Give it when robustness is a goal or what is studied. Backdoors and theft are security_privacy.",
        "ours",
    )
    SECURITY_PRIVACY = (
        "security_privacy",
        "Security and privacy",
        "Backdoors, membership, ownership, unlearning.",
        "Give it when such a risk is the goal or what is studied. Adversarial examples are adversarial_robustness.",
        "ours",
    )
    FAIRNESS = (
        "fairness",
        "Fairness and bias",
        "Who or what is harmed by pruning: groups, classes, calibration of confidence.",
        "Give it when disparate effects, bias or confidence are studied. Average accuracy is not this.",
        "ours",
    )
    CONTINUAL_LEARNING = (
        "continual_learning",
        "Continual learning",
        "Tasks that come one after another.",
        "Give it when earlier tasks must not be forgotten. Several tasks at once are multi_task_learning.",
        "ours",
    )
    FEDERATED_LEARNING = (
        "federated_learning",
        "Federated learning",
        "Training spread over clients who keep their data.",
        "Give it when clients or federation are named.",
        "ours",
    )
    MULTI_TASK_LEARNING = (
        "multi_task_learning",
        "Multi-task learning",
        "One network for several tasks or domains at once.",
        "Give it when tasks share a pruned network. A ticket moved to a new task is settings.transfer.",
        "ours",
    )
    EDGE_DEPLOYMENT = (
        "edge_deployment",
        "Deployment on devices",
        "Phones, microcontrollers, FPGAs and accelerators made for the sparse network.",
        "Give it when title or abstract names a class of device that the method is made for or measured on. A motive of the opening "
        "sentences (drones, phones, limited resources) is not enough, nor are fewer FLOPs or speed on a GPU or a CPU alone.",
        "ours",
    )


class Kind(Term):
    """What sort of work the paper is."""

    METHOD = (
        "method",
        "Method",
        "Proposes a way to prune.",
        "The default. Give it when a new procedure is the main result, even with a theorem beside it.",
        "ours",
    )
    THEORY = (
        "theory",
        "Theory",
        "Proves something about pruned networks or pruning.",
        "Give it when theorems are the main result. Measured findings are analysis.",
        "ours",
    )
    ANALYSIS = (
        "analysis",
        "Analysis",
        "Studies, compares or questions existing pruning by experiments.",
        "Give it when findings, not a procedure, are the main result; a hypothesis with a name is a finding. A shared test bed offered "
        "to others is benchmark; one known method shown to help a new field is application.",
        "ours",
    )
    SURVEY = (
        "survey",
        "Survey",
        "Orders the literature.",
        "Give it to surveys, reviews and tutorials. A position paper with experiments is analysis.",
        "ours",
    )
    BENCHMARK = (
        "benchmark",
        "Benchmark",
        "Offers tasks, data or measurements by which pruning is compared.",
        "Give it when the test bed is the main result. One comparison for one finding is analysis.",
        "ours",
    )
    LIBRARY = (
        "library",
        "Library",
        "Offers software, kernels or hardware for sparse networks.",
        "Give it when the tool is the main result. Code published with a method is method.",
        "ours",
    )
    APPLICATION = (
        "application",
        "Application",
        "Brings known pruning to a task or field.",
        "Give it when the field, not the pruning, is what is new. A changed algorithm is method.",
        "ours",
    )
    ADJACENT = (
        "adjacent",
        "Adjacent",
        "Stands in the surveys' lists or near them, yet removes nothing from a network.",
        "Give it to cache, data, distillation, quantization or initialization papers that the lists carry. Tags then say only what the "
        "paper has in common.",
        "ours",
    )


class Evidence(Term):
    """Where a tag was read."""

    SURVEY_FIGURE = (
        "survey_figure",
        "Survey's figure",
        "A survey's overview figure names the method in that place.",
        "Give it for structured_family read from He & Xiao's figure. Rows of a repository are survey_list.",
        "ours",
    )
    SURVEY_LIST = (
        "survey_list",
        "Survey's list",
        "A survey's public paper list files the paper so: section, type letter or application column.",
        "Give it when list and tag agree. When the abstract alone says it, abstract.",
        "ours",
    )
    ABSTRACT = (
        "abstract",
        "Abstract",
        "The paper's abstract says so, or it follows from it without guessing.",
        "Give it whenever the abstract suffices. From the title alone it is title.",
        "ours",
    )
    FULL_TEXT = (
        "full_text",
        "Full text",
        "Read in the body of the paper.",
        "Give it only when the text was at hand. The surveys' own full texts were not.",
        "ours",
    )
    CODE = (
        "code",
        "Code",
        "Read in the authors' code.",
        "Give it when the official code was read. Somebody else's code is secondary.",
        "ours",
    )
    SECONDARY = (
        "secondary",
        "Secondary",
        "Another text than the paper says so: a later paper, a review, notes, other lists.",
        "Give it for lists other than the surveys' own and for descriptions by others.",
        "ours",
    )
    TITLE = (
        "title",
        "Title",
        "Only the title was at hand, and it says so.",
        "Give it when nothing but the title supports the tag. Leave off what the title does not say.",
        "ours",
    )


class Relation(Term):
    """How a paper relates to the reference implementation it links to."""

    IMPLEMENTS = (
        "implements",
        "Implements",
        "The module is this paper's own algorithm.",
        "Give it when the module follows the paper. A module of a forerunner is variant or nearest.",
        "ours",
    )
    VARIANT = (
        "variant",
        "Variant",
        "The paper's method differs from the module in something that one sentence states.",
        "Give it when `differs` can be told from a source. When the difference is unknown it is nearest.",
        "ours",
    )
    SUBJECT = (
        "subject",
        "Subject",
        "The paper analyses, surveys or proves something about what the module runs.",
        "Give it to papers that are no method of their own; `differs` says what they add.",
        "ours",
    )
    NEAREST = (
        "nearest",
        "Nearest",
        "Not implemented yet; the module shares the paper's main tags.",
        "Give it when nothing closer exists. No `differs` is made up.",
        "ours",
    )


@dataclass(frozen=True)
class Axis:
    """The texts of one axis.

    Attributes:
        name: the axis as records, queries and addresses write it.
        title: the name to show.
        definition: one sentence.
        source: where the axis comes from.
    """

    name: str
    title: str
    definition: str
    source: str


AXES: dict[str, type[Term]] = {
    "speedup": Speedup,
    "granularity": Granularity,
    "when": When,
    "how": How,
    "fusion": Fusion,
    "structured_family": StructuredFamily,
    "passes": Passes,
    "data": Data,
    "weights": Weights,
    "scope": Scope,
    "recovery": Recovery,
    "transfer": Transfer,
    "supervision": Supervision,
    "networks": Network,
    "applications": Application,
}
"""The axes of the taxonomy in their order: name -> the enum of its values."""

FACETS: dict[str, type[Term]] = AXES | {"kind": Kind, "relation": Relation}
"""Everything a reader can filter by: the axes, the kind of paper, and how it relates to an implementation."""

AXIS: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis(
            "speedup",
            "Speedup",
            "Whether the zeros pay off on any hardware (structured) or only on special hardware or software (the other two).",
            "Cheng, Zhang & Shi, section 3",
        ),
        Axis(
            "granularity", "Granularity", "The smallest thing that is removed or kept as one.", "Cheng, Zhang & Shi, paper list, and ours"
        ),
        Axis(
            "when", "When to prune", "When, in the life of the network, the decision to remove is taken.", "Cheng, Zhang & Shi, section 4"
        ),
        Axis(
            "how",
            "How to prune",
            "The criterion that ranks units, or the way the method learns what to remove.",
            "Cheng, Zhang & Shi, sections 5 and 6, and ours",
        ),
        Axis("fusion", "Fusion", "The other compression that the paper joins with pruning.", "Cheng, Zhang & Shi, section 8"),
        Axis(
            "structured_family",
            "Structured family",
            "The technique family of a structured CNN method, after He & Xiao's 19 coded sections.",
            "He & Xiao, section 2",
        ),
        Axis("passes", "One-shot or iterative", "In how many steps the wanted sparsity is reached.", "Cheng, Zhang & Shi, section 7.2"),
        Axis("data", "Data-free or data-driven", "Whether deciding what to remove needs data.", "Cheng, Zhang & Shi, section 7.3"),
        Axis(
            "weights",
            "Initialized or pre-trained",
            "The state of the weights that the decision looks at.",
            "Cheng, Zhang & Shi, section 7.4",
        ),
        Axis("scope", "Global or local", "How far units compete with each other.", "Cheng, Zhang & Shi, section 7.5"),
        Axis("recovery", "Recovery", "What happens to the remaining weights afterwards.", "Cheng, Zhang & Shi, section 7.6, and ours"),
        Axis("transfer", "Original task or transfer", "The task for which the pruned network is used.", "Cheng, Zhang & Shi, section 7.7"),
        Axis("supervision", "Supervision", "What labels the pruning decision uses.", "Cheng, Zhang & Shi, section 7.10"),
        Axis("networks", "Networks", "The families of networks that the paper prunes or speaks of.", "ours"),
        Axis("applications", "Applications", "The tasks on which the paper shows its results, and the purposes it prunes for.", "ours"),
        Axis("kind", "Kind of paper", "What sort of work the paper is.", "ours"),
        Axis("relation", "Implementation", "How the paper relates to the reference implementation it links to.", "ours"),
    )
}
"""The texts of every facet."""
