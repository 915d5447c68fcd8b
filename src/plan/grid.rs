//! The grid that a session measures: every combination of model, quantization, device, number of threads,
//! batch and engine.

use super::Target;
use crate::device::Device;
use crate::model::quant::Quant;

/// One cell of the grid: what an arm measures, before the model's file is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// As typed.
    pub model: String,
    /// Absent for the model's own quantization.
    pub quant: Option<Quant>,
    pub device: Device,
    pub threads: u32,
    /// Sequences that are generated together.
    pub batch: u32,
    /// Index into the engines.
    pub engine: usize,
}

impl Cell {
    /// All cells, engines side by side. `threads` replaces an empty list, and 1 one of batches.
    pub fn grid(target: &Target, batches: &[u32], engines: usize, threads: u32) -> Vec<Self> {
        let batches = if batches.is_empty() { &[1] } else { batches };
        let quants = match target.quant.is_empty() {
            true => vec![None],
            false => each_once(target.quant.iter().copied().map(Some)),
        };
        let all_threads = match target.threads.is_empty() {
            true => vec![threads],
            false => target.threads.clone(),
        };
        let mut cells = Vec::new();
        // In the order of the axes, the engines side by side.
        let models = target.models();
        let of_files =
            models.iter().flat_map(|model| quants.iter().map(move |quant| (model, quant)));
        for (model, quant) in of_files {
            for device in each_once(target.device.iter().copied()) {
                for threads in each_once(all_threads.iter().copied()) {
                    for batch in each_once(batches.iter().copied()) {
                        let (model, quant) = (model.clone(), *quant);
                        let cell = Self { model, quant, device, threads, batch, engine: 0 };
                        cells.extend((0..engines).map(|engine| Self { engine, ..cell.clone() }));
                    }
                }
            }
        }
        cells
    }
}

/// The items in order, without repetitions.
pub fn each_once<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut once: Vec<T> = Vec::new();
    for item in items {
        if !once.contains(&item) {
            once.push(item);
        }
    }
    once
}

/// A cell with the names that are known once its file is found.
pub struct Named<'a> {
    pub cell: &'a Cell,
    pub engine: &'a str,
    pub model: &'a str,
    pub quant: &'a str,
}

/// Column labels: the engine, and whatever else differs among the cells, as
/// `candle:llama3-1b:Q8_0:2t:b8`. A label has no space, so that a requirement can name it.
pub fn labels(cells: &[Named<'_>]) -> Vec<String> {
    let Some(first) = cells.first() else { return Vec::new() };
    let differ = |same: &dyn Fn(&Named<'_>) -> bool| !cells.iter().all(same);
    let models = differ(&|n| n.model == first.model);
    let quants = differ(&|n| n.quant == first.quant);
    let devices = differ(&|n| n.cell.device == first.cell.device);
    let threads = differ(&|n| n.cell.threads == first.cell.threads);
    let batches = differ(&|n| n.cell.batch == first.cell.batch);
    let label = |Named { cell, engine, model, quant }: &Named<'_>| {
        let mut label = engine.to_string();
        let parts = [
            models.then(|| model.replace(char::is_whitespace, "_")),
            quants.then(|| quant.to_string()),
            devices.then(|| cell.device.to_string()),
            threads.then(|| format!("{}t", cell.threads)),
            batches.then(|| format!("b{}", cell.batch)),
        ];
        parts.into_iter().flatten().for_each(|part| label = format!("{label}:{part}"));
        label
    };
    cells.iter().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(config: serde_json::Value) -> Target {
        let mut all = serde_json::json!({
            "model": "tiny", "quant": [], "threads": [], "device": "cpu", "weights": "auto",
        });
        for (key, value) in config.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    fn shown(target: &Target, engines: &[&str]) -> Vec<String> {
        shown_in_batches(target, &[], engines)
    }

    fn shown_in_batches(target: &Target, batches: &[u32], engines: &[&str]) -> Vec<String> {
        let cells = Cell::grid(target, batches, engines.len(), 4);
        let quant = |c: &Cell| c.quant.map_or("Q4_0".to_string(), |q| q.to_string());
        let quants: Vec<String> = cells.iter().map(quant).collect();
        let named = |(cell, quant)| -> Named<'_> {
            let cell: &Cell = cell;
            Named { cell, engine: engines[cell.engine], model: &cell.model, quant }
        };
        let named: Vec<Named<'_>> =
            cells.iter().zip(quants.iter().map(String::as_str)).map(named).collect();
        labels(&named)
    }

    #[test]
    fn one_point_is_a_grid_of_one_and_is_called_like_its_engine() {
        assert_eq!(shown(&target(serde_json::json!({})), &["candle"]), ["candle"]);
        let cells = Cell::grid(&target(serde_json::json!({})), &[], 1, 4);
        assert_eq!((cells[0].threads, cells[0].quant, cells[0].batch), (4, None, 1));
    }

    #[test]
    fn lists_span_a_grid_whose_labels_name_what_differs() {
        let grid = target(serde_json::json!({"quant": ["F16", "Q8_0"], "threads": [1, 2]}));
        assert_eq!(
            shown(&grid, &["candle"]),
            ["candle:F16:1t", "candle:F16:2t", "candle:Q8_0:1t", "candle:Q8_0:2t"]
        );
        let twice = target(serde_json::json!({"quant": ["F16", "F16"]}));
        assert_eq!(shown(&twice, &["candle", "pytorch"]), ["candle", "pytorch"]);
        let one = target(serde_json::json!({}));
        assert_eq!(
            shown_in_batches(&one, &[1, 8, 8], &["candle", "pytorch"]),
            ["candle:b1", "pytorch:b1", "candle:b8", "pytorch:b8"]
        );
        assert_eq!(shown_in_batches(&one, &[8], &["candle"]), ["candle"]);
        let two = target(serde_json::json!({"model": "tiny, llama3-1b,tiny"}));
        assert_eq!(shown(&two, &["candle"]), ["candle:tiny", "candle:llama3-1b"]);
    }
}
