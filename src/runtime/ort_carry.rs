//! State that stays in the memory of ONNX Runtime's device from step to step.

use super::carry::Carry;
use super::ort::{OrtSession, error, failure};
use super::ort_bound::memory;
use super::ort_values::{to_array, to_tensor};
use super::walk::Feed;
use super::{Array, Device};
use crate::error::Result;
use ort::memory::{AllocationDevice, Allocator, MemoryInfo};
use ort::session::IoBinding;
use ort::value::{DynTensor, DynTensorValueType};

/// A session, what it carries, and where its outputs go.
pub(super) struct OrtCarry<'a> {
    owner: &'a mut OrtSession,
    binding: IoBinding,
    state: Vec<(String, DynTensor)>,
    before: Option<Vec<(String, DynTensor)>>,
    /// Outputs: the name, and the state that it becomes.
    outputs: Vec<(String, Option<String>)>,
    device: MemoryInfo<'static>,
    host: MemoryInfo<'static>,
}

impl<'a> OrtCarry<'a> {
    pub(super) fn new(owner: &'a mut OrtSession, state: Feed, pairs: Vec<(String, String)>) -> Result<Self> {
        let device = memory(owner.device()).map_err(failure)?;
        let host = memory(&Device::Cpu).map_err(failure)?;
        let allocator = Allocator::new(&owner.session, device.clone()).map_err(failure)?;
        let mut on_device = Vec::new();
        for (name, array) in state {
            let tensor = to_tensor(&name, &array)?;
            let mut moved = DynTensor::new(&allocator, *tensor.data_type(), tensor.shape().clone()).map_err(failure)?;
            tensor.copy_into(&mut moved).map_err(failure)?;
            on_device.push((name, moved));
        }
        let becomes = |name: &str| pairs.iter().find(|(_, output)| output == name).map(|(input, _)| input.clone());
        let outputs = owner.session.outputs().iter().map(|o| (o.name().to_owned(), becomes(o.name()))).collect();
        let binding = owner.session.create_binding().map_err(failure)?;
        Ok(OrtCarry { owner, binding, state: on_device, before: None, outputs, device, host })
    }
}

impl Carry for OrtCarry<'_> {
    fn step(&mut self, feed: &[(String, Array)]) -> Result<Feed> {
        for (name, tensor) in &self.state {
            self.binding.bind_input(name, tensor).map_err(failure)?;
        }
        // Held until the run is over.
        let mut fed = Vec::with_capacity(feed.len());
        for (name, array) in feed {
            let tensor = to_tensor(name, array)?;
            self.binding.bind_input(name, &tensor).map_err(failure)?;
            fed.push(tensor);
        }
        // Bound anew each time: the memory of the last outputs is the state that now goes in.
        for (name, state) in &self.outputs {
            let place = if state.is_some() { &self.device } else { &self.host };
            self.binding.bind_output_to_device(name, place).map_err(failure)?;
        }
        let made = self.owner.session.run_binding(&self.binding).map_err(failure)?;
        self.binding.synchronize_outputs().map_err(failure)?;
        let mut next = Vec::with_capacity(self.state.len());
        let mut rest = Feed::new();
        for (name, value) in made {
            match self.outputs.iter().find(|o| o.0 == name).and_then(|o| o.1.clone()) {
                Some(input) => {
                    let tensor = value.downcast::<DynTensorValueType>();
                    next.push((input, tensor.map_err(|_| error(format!("output {name:?} is no tensor")))?));
                }
                None => rest.push((name.to_owned(), to_array(name, &value)?)),
            }
        }
        if next.len() != self.state.len() {
            return Err(error(format!("{} states became {}", self.state.len(), next.len())));
        }
        self.before = Some(std::mem::replace(&mut self.state, next));
        drop(fed);
        self.owner.check()?;
        Ok(rest)
    }

    fn state(&self) -> Result<Feed> {
        let copy = |(name, tensor): &(String, DynTensor)| {
            let here = tensor.to(AllocationDevice::CPU, 0).map_err(failure)?;
            Ok((name.clone(), to_array(name, &here.view().into_dyn())?))
        };
        self.state.iter().map(copy).collect()
    }

    fn back(&mut self) -> Result<()> {
        self.state = self.before.take().ok_or_else(|| error("no step to go back".into()))?;
        Ok(())
    }
}
