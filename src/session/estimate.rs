//! Estimates how long a planned run will take, from earlier records of the same file and engine.

use crate::analysis::ok_launches;
use crate::metric::Metric;
use crate::plan::Workload;
use crate::record::{Arm, Point, Record, WorkloadPrompt};
use crate::stats::Sample;
use crate::units::Seconds;

/// The time of one launch of an engine, from the newest of `records` (oldest first) that measured
/// the model file with this checksum at such a point; `None` if no record did.
pub fn launch_time(
    records: &[Record],
    (sha256, point): (&str, &Point),
    prompts: &[WorkloadPrompt],
    work: &Workload,
) -> Option<Seconds> {
    let newest_first = records.iter().rev().flat_map(|r| r.arms.iter().map(move |arm| (r, arm)));
    let fits = |(r, arm): &(&Record, &Arm)| {
        let file = r.model_of(arm).sha256 == sha256;
        // Records from before there were devices are of the processor.
        let device = |point: &Point| point.device.unwrap_or_default();
        let alike = |p: &Point| (device(p), p.threads, p.batch);
        file && arm.engine == point.engine && alike(&arm.point) == alike(point)
    };
    let arms: Vec<&Arm> = newest_first.filter(fits).map(|(_, arm)| arm).collect();
    let rates = arms.iter().find_map(|arm| {
        let median = |metric: Metric| {
            let values: Vec<f64> =
                ok_launches(arm).filter_map(|l| l.metrics.get(&metric).copied()).collect();
            Sample::new(&values).ok().map(|s| s.median())
        };
        Some((
            median(Metric::ColdStartTtft)?,
            median(Metric::PrefillTps)?,
            median(Metric::DecodeTps)?,
        ))
    });
    let (cold_start, prefill, decode) = rates?;
    // Whether the records show that the engine runs the context again in each generation.
    let mut runs = arms.iter().flat_map(|arm| ok_launches(arm)).flat_map(|l| &l.prompts);
    let anew = runs.any(|run| run.context_in_request);
    // The rate of a prefill is that of all sequences together, the rate of decoding each one's.
    let prefill = prefill / f64::from(point.batch.unwrap_or(1));
    let took = |p: &WorkloadPrompt, n_gen: u32| {
        f64::from(p.n_prompt) / prefill + f64::from(n_gen) / decode
    };
    let mut sum = cold_start + f64::from(prompts.first()?.n_gen) / decode;
    for (i, p) in prompts.iter().enumerate() {
        // The first warm-up of the first prompt is the cold generation if the prompt has no depth.
        // A warm-up generates two tokens.
        let (warmups, measured) = work.generations(i == 0 && p.depth == 0);
        let contexts = if anew { warmups + measured } else { 1 };
        sum += f64::from(contexts) * f64::from(p.depth) / prefill;
        sum += f64::from(warmups) * took(p, p.n_gen.min(2));
        sum += f64::from(measured) * took(p, p.n_gen);
    }
    Some(Seconds(sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;
    use crate::device::Device;

    #[test]
    fn a_launch_is_its_cold_start_and_its_tokens_at_the_rates_seen_before() {
        let mut record = testing::record();
        record.arms[0].point.threads = Some(2);
        let engine = record.arms[0].engine.clone();
        record.arms.truncate(1);
        record.arms[0].launches.truncate(1);
        let metrics = &mut record.arms[0].launches[0].metrics;
        for (metric, value) in
            [(Metric::ColdStartTtft, 2.0), (Metric::PrefillTps, 100.0), (Metric::DecodeTps, 10.0)]
        {
            metrics.insert(metric, value);
        }
        let prompt = |n_prompt, n_gen, depth| WorkloadPrompt {
            id: "p".into(),
            category: None,
            n_prompt,
            n_gen,
            depth,
        };
        let prompts = [prompt(50, 20, 0), prompt(100, 30, 0)];
        let work = Workload::repeated(1, 2);
        let sha = record.model.sha256.clone();
        let point = |threads, engine: &str| Point {
            engine: engine.into(),
            device: Some(Device::Cpu),
            threads: Some(threads),
            ..Point::default()
        };
        let time = |threads, engine: &str| {
            let point = point(threads, engine);
            launch_time(std::slice::from_ref(&record), (&sha, &point), &prompts, &work)
        };
        // Cold: 2 + 2. First prompt: 2 · (0.5 + 2). Second: warm-up 1 + 0.2, then 2 · (1 + 3).
        let expected = 4.0 + 5.0 + 1.2 + 8.0;
        assert!((time(2, &engine).unwrap().0 - expected).abs() < 1e-9);
        assert!(time(2, "another").is_none());
        assert!(time(4, &engine).is_none(), "other threads, other rates");
        let on_a_card = Point { device: Some(Device::Cuda(0)), ..point(2, &engine) };
        let records = std::slice::from_ref(&record);
        let other = |point: &Point| launch_time(records, (&sha, point), &prompts, &work);
        assert!(other(&on_a_card).is_none(), "another device");
        let batched = Point { batch: Some(8), ..point(2, &engine) };
        assert!(other(&batched).is_none(), "another batch");
        // At depth 200 no warm-up is cold, and the context takes 2 more seconds, once or each time.
        let deep = [prompt(50, 20, 200)];
        let time = |record: &Record| {
            launch_time(std::slice::from_ref(record), (&sha, &point(2, &engine)), &deep, &work)
                .unwrap()
                .0
        };
        assert!((time(&record) - (4.0 + 2.0 + 0.7 + 5.0)).abs() < 1e-9);
        let mut within = record.clone();
        within.arms[0].launches[0].prompts[0].context_in_request = true;
        assert!((time(&within) - (4.0 + 3.0 * 2.0 + 0.7 + 5.0)).abs() < 1e-9);
    }
}
