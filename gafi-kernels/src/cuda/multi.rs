//! In-place updates of many tensors in one launch, for optimisers and averages.
//!
//! A network has a hundred parameters, most of them small. With one or more launches for each, the GPU would wait for the
//! host. A launch takes a table of pointers by value, so that nothing is copied first.

use candle_core::{DType, Result, Tensor, bail};

use super::{Arg, Engine, Grid};

/// Maximum number of tensors in a launch: what fits into the 4 KB of kernel arguments.
const SLOTS: usize = 48;

/// Number of values in a block.
const BLOCK: usize = 2048;

/// `Table` in the layout of the kernels.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Table {
    column: [[u64; SLOTS]; 4],
    length: [u32; SLOTS],
    first: [u32; SLOTS],
    count: u32,
    unused: u32,
}

/// The factors of one step of stochastic gradient descent: `buf = momentum * buf + lr * g`, then
/// `w = keep * w - (look * lr * g + ahead * buf)`.
#[derive(Debug, Clone, Copy)]
pub struct SgdStep {
    /// Factor of the old buffer.
    pub momentum: f32,
    /// Factor of the old weight: 1 less the weight decay.
    pub keep: f32,
    /// Learning rate.
    pub lr: f32,
    /// Share of the gradient in the step.
    pub look: f32,
    /// Share of the buffer in the step.
    pub ahead: f32,
}

/// The factors of one step of Adam: `m = beta1 * m + (1 - beta1) * g`, `v` alike with g squared, then
/// `w -= rate * m / (sqrt(v) + eps)`.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Learning rate times the bias corrections.
    pub rate: f32,
    /// Added to the denominator.
    pub eps: f32,
}

/// One SGD step, in place; each row holds a weight, its gradient and its buffer.
///
/// # Errors
/// A row whose tensors are not f32 of one length, or not all on the GPU of the first.
pub fn sgd(rows: &[[&Tensor; 3]], step: &SgdStep) -> Result<()> {
    let SgdStep { momentum, keep, lr, look, ahead } = *step;
    update("sgd", rows, &[Arg::F(momentum), Arg::F(keep), Arg::F(lr), Arg::F(look), Arg::F(ahead)])
}

/// One Adam step, in place; each row holds a weight, its gradient, and its first and second moment.
///
/// # Errors
/// As [`sgd`].
pub fn adam(rows: &[[&Tensor; 4]], step: &AdamStep) -> Result<()> {
    let AdamStep { beta1, beta2, rate, eps } = *step;
    let [first, second] = [beta1, beta2].map(|beta| [Arg::F(beta as f32), Arg::F((1.0 - beta) as f32)]);
    let rest = [first[0], first[1], second[0], second[1], Arg::F(rate), Arg::F(eps)];
    update("adam", rows, &rest)
}

/// `average = decay * average + (1 - decay) * value`, in place; each row holds an average and a value. A decay of 0
/// copies.
///
/// # Errors
/// As [`sgd`].
pub fn average(rows: &[[&Tensor; 2]], decay: f64) -> Result<()> {
    update("average", rows, &[Arg::F(decay as f32), Arg::F((1.0 - decay) as f32)])
}

/// Launches `kernel` over all rows. The tensors of a row must be f32 and of one length.
fn update<const N: usize>(kernel: &str, rows: &[[&Tensor; N]], rest: &[Arg<'_>]) -> Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let engine = Engine::of(first[0].device())?;
    for rows in rows.chunks(SLOTS) {
        let mut table = Table {
            column: [[0; SLOTS]; 4],
            length: [0; SLOTS],
            first: [0; SLOTS],
            count: rows.len() as u32,
            unused: 0,
        };
        let mut blocks = 0;
        for (slot, row) in rows.iter().enumerate() {
            let length = row[0].elem_count();
            let fits = |t: &Tensor| t.dtype() == DType::F32 && t.elem_count() == length && length < 1 << 31;
            if let Some(odd) = row.iter().find(|t| !fits(t)) {
                bail!("{kernel}: expected f32 tensors of one length, found {odd:?} beside {:?}", row[0])
            }
            for (column, tensor) in table.column.iter_mut().zip(row) {
                column[slot] = engine.pointer(tensor)?;
            }
            table.length[slot] = length as u32;
            table.first[slot] = blocks as u32;
            blocks += length.div_ceil(BLOCK);
        }
        if blocks > 0 {
            let args: Vec<Arg<'_>> = [Arg::Table(&table)].into_iter().chain(rest.iter().copied()).collect();
            engine.launch(kernel, Grid::rows(blocks), &args)?;
        }
    }
    Ok(())
}
