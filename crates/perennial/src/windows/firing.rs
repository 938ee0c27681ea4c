//! Who says when windows fire, and so which operator they are.

use std::any::Any;

use perennial_runtime::operators::{Collector, SideOutputs};
use perennial_runtime::windows::{
    AggregateFunction, EventTimeTrigger, NeverTrigger, PaneOperator, ProcessingTimeTrigger, Trigger, WindowContext,
    WindowOperator, WindowSetup, Windows,
};
use perennial_runtime::{KeySelector, Output, TaskError, UserError};
use perennial_types::Record;

use super::Assigned;
use crate::graph::code::erased;

/// Who says when windows fire: [`ByDefault`] or [`OwnTrigger`].
pub trait Firing<T>: Clone + Send + Sync + 'static {
    #[doc(hidden)]
    fn operator<Sel, A, E, U>(
        &self,
        setup: WindowSetup<T>,
        assigned: &Assigned<T>,
        selector: Sel,
        functions: (A, E),
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Box<dyn Any + Send>, TaskError>
    where
        T: Record,
        Sel: KeySelector<T>,
        A: AggregateFunction<T>,
        U: Record,
        E: FnMut(&Sel::Key, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>
            + Send
            + 'static;
}

/// Windows fire when time has passed their end; global ones never.
#[derive(Debug, Clone, Copy)]
pub struct ByDefault;

/// Windows fire when a trigger of the user's says so.
#[derive(Debug, Clone)]
pub struct OwnTrigger<Tr>(pub(crate) Tr);

impl<T: Record> Firing<T> for ByDefault {
    fn operator<Sel, A, E, U>(
        &self,
        setup: WindowSetup<T>,
        assigned: &Assigned<T>,
        selector: Sel,
        (aggregate, emit): (A, E),
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Box<dyn Any + Send>, TaskError>
    where
        Sel: KeySelector<T>,
        A: AggregateFunction<T>,
        U: Record,
        E: FnMut(&Sel::Key, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>
            + Send
            + 'static,
    {
        let windows = assigned.windows.clone();
        Ok(match windows {
            Windows::Aligned(panes) => {
                erased::<T>(PaneOperator::new(setup, panes, selector, (aggregate, emit), sides, next)?)
            }
            Windows::Sessions(_) if assigned.is_event_time => {
                let functions = (aggregate, EventTimeTrigger, emit);
                erased::<T>(WindowOperator::new(setup, windows, selector, functions, sides, next)?)
            }
            Windows::Sessions(_) => {
                let functions = (aggregate, ProcessingTimeTrigger, emit);
                erased::<T>(WindowOperator::new(setup, windows, selector, functions, sides, next)?)
            }
            Windows::Global => {
                let functions = (aggregate, NeverTrigger, emit);
                erased::<T>(WindowOperator::new(setup, windows, selector, functions, sides, next)?)
            }
        })
    }
}

impl<T: Record, Tr: Trigger<T>> Firing<T> for OwnTrigger<Tr> {
    fn operator<Sel, A, E, U>(
        &self,
        setup: WindowSetup<T>,
        assigned: &Assigned<T>,
        selector: Sel,
        (aggregate, emit): (A, E),
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Box<dyn Any + Send>, TaskError>
    where
        Sel: KeySelector<T>,
        A: AggregateFunction<T>,
        U: Record,
        E: FnMut(&Sel::Key, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>
            + Send
            + 'static,
    {
        let functions = (aggregate, self.0.clone(), emit);
        let windows = assigned.windows.clone();
        Ok(erased::<T>(WindowOperator::new(setup, windows, selector, functions, sides, next)?))
    }
}
