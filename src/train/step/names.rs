//! Names of what enters and leaves.

/// The learning rate.
pub const LR: &str = "train/in/lr";
/// See [`Update::corrections`](crate::train::optimizer::Update::corrections).
pub const CORRECTIONS: [&str; 2] = ["train/in/c1", "train/in/c2"];
/// Wanted probabilities of `ce`.
pub const WANTED: &str = "train/in/wanted";
/// Running statistics, as state.
pub const STATISTICS: &str = "train/in/statistics";
/// The loss.
pub const LOSS: &str = "train/out/loss";
/// Length of the gradient of all trained tensors, before it is clipped.
pub const GRADIENT: &str = "train/out/gradient";
/// The student's logits.
pub const LOGITS: &str = "train/out/logits";
/// The teacher's.
pub const TEACHER_LOGITS: &str = "train/out/teacher_logits";
/// Length of all decaying tensors as one vector, before the step.
pub const WEIGHT: &str = "train/out/weight";
/// Gates of channels: parameters that learn, or 0 and 1.
pub const GATES: &str = "train/in/gates";
/// Noise of gates that learn.
pub const GATE_NOISE: &str = "train/in/gate/noise";
/// Learning rate of gates.
pub const GATE_LR: &str = "train/in/gate/lr";
/// As [`CORRECTIONS`], of gates.
pub const GATE_CORRECTIONS: [&str; 2] = ["train/in/gate/c1", "train/in/gate/c2"];
/// The penalty of sparse training, before the step.
pub const PENALTY: &str = "train/out/penalty";
/// Sums of squares of the slices that channels are ranked by.
pub const SLICES: &str = "train/out/slices";

/// State `k` of gates that learn.
pub fn gate_state(k: usize) -> String {
    format!("{GATES}/s{k}")
}

/// A trained vector: 0 decays, 1 does not.
pub fn weights(vector: usize) -> String {
    format!("train/in/w{vector}")
}

/// Whether a state input is part of the model, and not only of the optimiser.
pub fn is_model(input: &str) -> bool {
    input == STATISTICS || (0..2).any(|v| input == weights(v))
}

/// A vector's state `k`.
pub fn state(vector: usize, k: usize) -> String {
    format!("train/in/w{vector}/s{k}")
}

/// What a state input becomes.
pub fn next(input: &str) -> String {
    input.replacen("train/in/", "train/out/", 1)
}

/// A term of the loss, unweighted.
pub fn term(name: &str) -> String {
    format!("train/out/term/{name}")
}

/// An output of the model in the evaluation graph.
pub fn output(name: &str) -> String {
    format!("train/out/output/{name}")
}
