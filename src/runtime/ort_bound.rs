//! Inputs and outputs of ONNX Runtime's sessions in the memory of the device (I/O binding).

use super::ort::{OrtSession, error, failure};
use super::ort_values::{to_array, to_tensor};
use super::walk::Feed;
use super::{Bound, Device};
use crate::error::Result;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::IoBinding;
use ort::value::{DynTensor, DynTensorValueType};

/// An input where the caller has it, and where the device has it.
struct Input {
    host: DynTensor,
    device: DynTensor,
}

/// One feed.
struct Bind {
    binding: IoBinding,
    inputs: Vec<Input>,
}

/// A session with its feeds on the device. Each has a binding of its own, since the outputs' memory, which the first run takes,
/// is used again by the next.
pub(super) struct OrtBound<'a> {
    owner: &'a mut OrtSession,
    feeds: Vec<Bind>,
    /// Of the last run.
    outputs: Vec<(String, DynTensor)>,
    /// Where [`Bound::download`] copies to; made by its first call.
    fetched: Vec<(String, DynTensor)>,
}

/// Where the device's kernels take tensors from.
pub(super) fn memory(device: &Device) -> ort::Result<MemoryInfo<'static>> {
    let (name, id) = match device {
        Device::Cuda(n) | Device::TensorRt(n) => (AllocationDevice::CUDA, i32::from(*n)),
        _ => (AllocationDevice::CPU, 0),
    };
    MemoryInfo::new(name, id, AllocatorType::Device, MemoryType::Default)
}

impl<'a> OrtBound<'a> {
    pub(super) fn new(owner: &'a mut OrtSession, feeds: &[Feed]) -> Result<Self> {
        let memory = memory(owner.device()).map_err(failure)?;
        let allocator = Allocator::new(&owner.session, memory.clone()).map_err(failure)?;
        let names: Vec<String> = owner.session.outputs().iter().map(|o| o.name().to_owned()).collect();
        let mut bound = Vec::new();
        for feed in feeds {
            let mut binding = owner.session.create_binding().map_err(failure)?;
            let mut inputs = Vec::new();
            for (name, array) in feed {
                let host = to_tensor(name, array)?;
                let mut device =
                    DynTensor::new(&allocator, *host.data_type(), host.shape().clone()).map_err(failure)?;
                host.copy_into(&mut device).map_err(failure)?;
                binding.bind_input(name, &device).map_err(failure)?;
                inputs.push(Input { host, device });
            }
            for name in &names {
                binding.bind_output_to_device(name, &memory).map_err(failure)?;
            }
            bound.push(Bind { binding, inputs });
        }
        Ok(Self { owner, feeds: bound, outputs: Vec::new(), fetched: Vec::new() })
    }
}

fn no_feed(feed: usize, all: usize) -> crate::error::Error {
    error(format!("feed {feed} is not bound; there are {all}"))
}

impl Bound for OrtBound<'_> {
    fn compute(&mut self, feed: usize) -> Result<()> {
        let all = self.feeds.len();
        let bind = self.feeds.get(feed).ok_or_else(|| no_feed(feed, all))?;
        let outputs = self.owner.session.run_binding(&bind.binding).map_err(failure)?;
        // A device may still be at work when the call returns.
        bind.binding.synchronize_outputs().map_err(failure)?;
        self.outputs.clear();
        for (name, value) in outputs {
            let tensor = value.downcast::<DynTensorValueType>();
            self.outputs.push((name.to_owned(), tensor.map_err(|_| error(format!("output {name:?} is no tensor")))?));
        }
        self.owner.check()
    }

    fn upload(&mut self, feed: usize) -> Result<()> {
        let all = self.feeds.len();
        let bind = self.feeds.get_mut(feed).ok_or_else(|| no_feed(feed, all))?;
        // The copy waits for the device.
        bind.inputs.iter_mut().try_for_each(|i| i.host.copy_into(&mut i.device)).map_err(failure)
    }

    fn download(&mut self) -> Result<()> {
        let fits = self.fetched.len() == self.outputs.len()
            && self.fetched.iter().zip(&self.outputs).all(|((_, to), (_, from))| to.dtype() == from.dtype());
        if fits {
            let mut pairs = self.outputs.iter().zip(&mut self.fetched);
            return pairs.try_for_each(|((_, from), (_, to))| from.copy_into(to)).map_err(failure);
        }
        let copy = |(name, from): &(String, DynTensor)| Ok((name.clone(), from.to(AllocationDevice::CPU, 0)?));
        self.fetched = self.outputs.iter().map(copy).collect::<ort::Result<_>>().map_err(failure)?;
        Ok(())
    }

    fn downloaded(&self) -> Result<Feed> {
        self.fetched.iter().map(|(name, value)| Ok((name.clone(), to_array(name, &value.view().into_dyn())?))).collect()
    }
}
