//! Timestamps of records, and the watermarks that are made of them.

use std::sync::Arc;
use std::time::Duration;

use crate::{ChainEvent, Output, TaskClock, TaskError};

/// Where the event time of a stream's records lies: the virtual call is per batch, what finds the time of a record is
/// monomorphised inside. Times are ms since 1970.
pub trait Timestamps<T>: Send + Sync {
    /// Appends the time of each record.
    fn timestamps(&self, batch: &[T], out: &mut Vec<i64>);

    /// The latest time of a batch; `i64::MIN` of an empty one.
    fn latest(&self, batch: &[T]) -> i64;
}

impl<T, F: Fn(&T) -> i64 + Send + Sync> Timestamps<T> for F {
    fn timestamps(&self, batch: &[T], out: &mut Vec<i64>) {
        out.extend(batch.iter().map(self));
    }

    fn latest(&self, batch: &[T]) -> i64 {
        batch.iter().map(self).fold(i64::MIN, i64::max)
    }
}

/// When the watermark of an [`AssignWatermarks`] is emitted, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatermarkSettings {
    /// How far behind the latest record a record may come: the watermark is the latest time minus this minus 1 ms. Without, no
    /// watermark is made before the end of the input.
    pub out_of_orderness: Option<Duration>,
    /// Time without records after which nobody shall wait for the watermark.
    pub idleness: Option<Duration>,
    /// How often the watermark is emitted; zero is never.
    pub interval: Duration,
}

/// Makes watermarks from the records that pass. Flink's `TimestampsAndWatermarksOperator`.
///
/// Watermarks from before end here, for those made here say more; but not the one at the end of the input.
pub struct AssignWatermarks<T> {
    timestamps: Arc<dyn Timestamps<T>>,
    settings: WatermarkSettings,
    clock: TaskClock,
    /// When the clock is to be looked at next.
    due_ms: i64,
    latest: i64,
    /// What was emitted last.
    watermark: i64,
    /// Records came since the last look at the clock.
    records_came: bool,
    /// Ms without records, as seen from one look to the next. Time in which the task could not run counts as one interval.
    quiet_ms: i64,
    idle: bool,
    next: Box<dyn Output<T>>,
}

impl<T> AssignWatermarks<T> {
    /// The operator in front of `next`.
    pub fn new(
        timestamps: Arc<dyn Timestamps<T>>,
        settings: WatermarkSettings,
        clock: TaskClock,
        next: Box<dyn Output<T>>,
    ) -> Self {
        let mut operator = Self {
            timestamps,
            settings,
            clock,
            due_ms: i64::MAX,
            latest: i64::MIN,
            watermark: i64::MIN,
            records_came: false,
            quiet_ms: 0,
            idle: false,
            next,
        };
        operator.look_again(operator.clock.now_ms());
        operator
    }

    fn look_again(&mut self, now_ms: i64) {
        let makes_any = self.settings.out_of_orderness.is_some() || self.settings.idleness.is_some();
        if makes_any && !self.settings.interval.is_zero() {
            self.due_ms = now_ms.saturating_add(millis(self.settings.interval).max(1));
            self.clock.wake_at(self.due_ms);
        }
    }

    /// Emits what there is to say.
    fn look(&mut self) -> Result<(), TaskError> {
        if std::mem::take(&mut self.records_came) {
            self.quiet_ms = 0;
            self.idle = false;
        } else {
            self.quiet_ms = self.quiet_ms.saturating_add(millis(self.settings.interval));
        }
        if let Some(bound) = self.settings.out_of_orderness
            && self.latest != i64::MIN
        {
            let watermark = self.latest.saturating_sub(millis(bound)).saturating_sub(1);
            if watermark > self.watermark {
                self.watermark = watermark;
                self.next.control(&mut ChainEvent::Watermark(watermark))?;
            }
        }
        if let Some(idleness) = self.settings.idleness
            && !self.idle
            && self.quiet_ms >= millis(idleness)
        {
            self.idle = true;
            self.next.control(&mut ChainEvent::Idle)?;
        }
        Ok(())
    }
}

impl<T: Send> Output<T> for AssignWatermarks<T> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        if !batch.is_empty() {
            self.latest = self.latest.max(self.timestamps.latest(batch));
            self.records_came = true;
        }
        self.next.push(batch)
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        match event {
            ChainEvent::Watermark(i64::MAX) => self.next.control(event),
            ChainEvent::Watermark(_) | ChainEvent::Idle => Ok(()),
            ChainEvent::Time(now_ms) => {
                let now_ms = *now_ms;
                if now_ms < self.due_ms {
                    self.clock.wake_at(self.due_ms);
                } else {
                    self.look()?;
                    self.look_again(now_ms);
                }
                self.next.control(event)
            }
            _ => self.next.control(event),
        }
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes what reaches it.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl Notes {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl Output<i64> for Notes {
        fn push(&mut self, batch: &mut Vec<i64>) -> Result<(), TaskError> {
            self.0.lock().unwrap().push(format!("{batch:?}"));
            batch.clear();
            Ok(())
        }

        fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
            match event {
                ChainEvent::Watermark(i64::MAX) => self.0.lock().unwrap().push("end".to_owned()),
                ChainEvent::Watermark(time) => self.0.lock().unwrap().push(format!("watermark {time}")),
                ChainEvent::Idle => self.0.lock().unwrap().push("idle".to_owned()),
                _ => {}
            }
            Ok(())
        }

        fn finish(&mut self) -> Result<(), TaskError> {
            Ok(())
        }
    }

    /// The operator before a notebook, and what tells it the time as a task does.
    fn operator(
        bound_ms: Option<u64>,
        idle_ms: Option<u64>,
    ) -> (AssignWatermarks<i64>, Notes, impl FnMut(&mut AssignWatermarks<i64>, i64)) {
        let (notes, clock) = (Notes::default(), TaskClock::standing(0));
        let settings = WatermarkSettings {
            out_of_orderness: bound_ms.map(Duration::from_millis),
            idleness: idle_ms.map(Duration::from_millis),
            interval: Duration::from_millis(200),
        };
        let timestamps = Arc::new(|time: &i64| *time);
        let operator = AssignWatermarks::new(timestamps, settings, clock.clone(), Box::new(notes.clone()));
        let tell = move |operator: &mut AssignWatermarks<i64>, to_ms: i64| {
            clock.set(to_ms);
            if let Some(now) = clock.take_due() {
                operator.control(&mut ChainEvent::Time(now)).unwrap();
            }
        };
        (operator, notes, tell)
    }

    #[test]
    fn the_watermark_is_behind_the_latest_record_and_comes_periodically() {
        let (mut operator, notes, mut tell) = operator(Some(10), None);
        operator.push(&mut vec![100, 300, 200]).unwrap();
        tell(&mut operator, 199);
        assert_eq!(notes.take(), ["[100, 300, 200]"]);
        tell(&mut operator, 200);
        assert_eq!(notes.take(), ["watermark 289"]);
        operator.push(&mut vec![250]).unwrap();
        tell(&mut operator, 400);
        assert_eq!(notes.take(), ["[250]"], "nothing new to say");
        // Told earlier than it asked for, by somebody else's wish: it asks again.
        operator.control(&mut ChainEvent::Time(500)).unwrap();
        operator.push(&mut vec![400]).unwrap();
        tell(&mut operator, 599);
        assert_eq!(notes.take(), ["[400]"]);
        tell(&mut operator, 1000);
        assert_eq!(notes.take(), ["watermark 389"]);
        // What was said before this operator counts for nothing, but that the input has ended.
        operator.control(&mut ChainEvent::Watermark(5_000)).unwrap();
        operator.control(&mut ChainEvent::Idle).unwrap();
        operator.control(&mut ChainEvent::Watermark(i64::MAX)).unwrap();
        assert_eq!(notes.take(), ["end"]);
    }

    #[test]
    fn a_source_without_records_becomes_idle_and_comes_back() {
        let (mut operator, notes, mut tell) = operator(Some(0), Some(500));
        operator.push(&mut vec![10]).unwrap();
        tell(&mut operator, 200);
        assert_eq!(notes.take(), ["[10]", "watermark 9"]);
        // The task could not run for long: that is no idleness.
        tell(&mut operator, 5_000);
        assert!(notes.take().is_empty());
        tell(&mut operator, 5_200);
        tell(&mut operator, 5_400);
        assert_eq!(notes.take(), ["idle"]);
        tell(&mut operator, 5_600);
        assert!(notes.take().is_empty(), "said once");
        operator.push(&mut vec![20]).unwrap();
        tell(&mut operator, 5_800);
        assert_eq!(notes.take(), ["[20]", "watermark 19"]);
        for at in 0..3 {
            tell(&mut operator, 6_000 + at * 200);
        }
        assert_eq!(notes.take(), ["idle"]);
    }

    #[test]
    fn without_watermarks_nothing_is_waited_for() {
        let (mut operator, notes, _) = operator(None, None);
        assert_eq!(operator.clock.due(), None);
        operator.push(&mut vec![1]).unwrap();
        operator.control(&mut ChainEvent::Watermark(i64::MAX)).unwrap();
        assert_eq!(notes.take(), ["[1]", "end"]);
    }
}
