//! The evaluation itself: a loop over operations, and its stack.

use trapline_arch::Gva;

use super::operation::Operation;
use super::{Environment, EvaluateError, OPERATION_LIMIT, STACK_CELLS};

/// Executes operations from the first on until [`Operation::End`].
pub(super) fn evaluate(
    operations: &[Operation],
    environment: &mut dyn Environment,
) -> Result<u64, EvaluateError> {
    let mut stack = Stack::new();
    let mut next: usize = 0;
    for _ in 0..OPERATION_LIMIT {
        // There always is a next one: see the field `operations` of `Expression`.
        let operation = operations.get(next).copied().unwrap_or(Operation::End);
        next = next.wrapping_add(1);
        match operation {
            Operation::End => return stack.pop(),
            Operation::Constant(value) => stack.push(value)?,
            Operation::Register(number) => {
                let value = environment.register(number);
                stack.push(value.ok_or(EvaluateError::Register { number })?)?;
            }
            Operation::Reference { size_bytes } => {
                let address = Gva(stack.pop()?);
                stack.push(read(environment, address, size_bytes)?)?;
            }
            Operation::Unary(function) => {
                let a = stack.pop()?;
                stack.push(function.apply(a))?;
            }
            Operation::Binary(function) => {
                let (a, b) = stack.pop_two()?;
                stack.push(function.apply(a, b))?;
            }
            Operation::Divide(division) => {
                let (a, b) = stack.pop_two()?;
                stack.push(division.apply(a, b).ok_or(EvaluateError::DivisionByZero)?)?;
            }
            Operation::Goto { target } => next = target.into(),
            Operation::IfGoto { target } => {
                if stack.pop()? != 0 {
                    next = target.into();
                }
            }
            Operation::Pick { depth } => stack.push(stack.peek(depth)?)?,
            Operation::Discard { count } => stack.discard(count)?,
            Operation::Keep => stack.peek(0).map(drop)?,
            Operation::Swap => stack.rotate_top(2)?,
            Operation::Rotate => stack.rotate_top(3)?,
        }
    }
    Err(EvaluateError::TooLong)
}

/// Reads an unsigned integer of 1 to 8 bytes.
fn read(
    environment: &mut dyn Environment,
    address: Gva,
    size_bytes: u8,
) -> Result<u64, EvaluateError> {
    let mut buffer = [0; size_of::<u64>()];
    let bytes = buffer.get_mut(..size_bytes.into()).unwrap_or_default();
    if !environment.read_memory(address, bytes) {
        return Err(EvaluateError::Memory { address });
    }
    if environment.big_endian() {
        bytes.reverse();
    }
    Ok(u64::from_le_bytes(buffer))
}

/// The stack of one evaluation; `depth <= STACK_CELLS`, and the top is `cells[depth - 1]`.
struct Stack {
    cells: [u64; STACK_CELLS],
    depth: usize,
}

impl Stack {
    fn new() -> Self {
        Self {
            cells: [0; STACK_CELLS],
            depth: 0,
        }
    }

    fn push(&mut self, value: u64) -> Result<(), EvaluateError> {
        *self
            .cells
            .get_mut(self.depth)
            .ok_or(EvaluateError::StackOverflow)? = value;
        self.depth = self.depth.saturating_add(1);
        Ok(())
    }

    fn pop(&mut self) -> Result<u64, EvaluateError> {
        let top = self.peek(0)?;
        self.depth = self.depth.saturating_sub(1);
        Ok(top)
    }

    /// Pops the top, `b`, and the cell below it, `a`, and returns `(a, b)`.
    fn pop_two(&mut self) -> Result<(u64, u64), EvaluateError> {
        let b = self.pop()?;
        Ok((self.pop()?, b))
    }

    /// Returns the cell that lies `below` under the top.
    fn peek(&self, below: u8) -> Result<u64, EvaluateError> {
        let above = usize::from(below).saturating_add(1);
        let index = self
            .depth
            .checked_sub(above)
            .ok_or(EvaluateError::StackUnderflow)?;
        self.cells
            .get(index)
            .copied()
            .ok_or(EvaluateError::StackUnderflow)
    }

    fn discard(&mut self, count: u8) -> Result<(), EvaluateError> {
        let depth = self.depth.checked_sub(count.into());
        self.depth = depth.ok_or(EvaluateError::StackUnderflow)?;
        Ok(())
    }

    /// Moves the top under the `count - 1` cells below it.
    fn rotate_top(&mut self, count: usize) -> Result<(), EvaluateError> {
        let start = self.depth.checked_sub(count);
        let cells = start.and_then(|start| self.cells.get_mut(start..self.depth));
        cells.ok_or(EvaluateError::StackUnderflow)?.rotate_right(1);
        Ok(())
    }
}
