//! What has to be done so that a guest executes what was written to its memory: nothing, the
//! processor sees to it (SDM vol. 3A, "Self-Modifying Code").

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Does nothing.
pub(crate) fn make_executable<B: BitmapSlice>(_: &VolatileSlice<'_, B>) {}
