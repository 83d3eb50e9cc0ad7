"""How a pass is carried out: the graph of its tasks, the tree of its sums, and reads beside the computation."""
