//! Records on disk: read and written whole. What the arms share is written once, and files of
//! earlier versions are brought into today's form.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Arm, Build, Comparison, Host, Model, Point, Record, Run, SCHEMA, Warning, Workload};
use crate::metric::Metric;

/// Far above any real record; a thousand launches of a long prompt set take some megabytes.
const MAX_FILE: u64 = 256 << 20;

/// The form on disk, borrowed for writing.
#[derive(Serialize)]
struct Written<'a> {
    schema: &'a str,
    run: &'a Run,
    host: &'a Host,
    build: &'a Build,
    model: Map<String, Value>,
    workload: &'a Workload,
    arms: &'a [Arm],
    comparisons: &'a [Comparison],
    warnings: &'a [Warning],
}

/// The result file of `llm-bench run`, `gate` and `track`: what was run, on what, and every raw
/// sample. A missing value is absent. Keys may be added under the same `schema`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "llm-bench result file")]
struct Stored {
    /// Name and version of the format; the number changes when old readers would misread.
    #[schemars(extend("const" = SCHEMA))]
    schema: String,
    /// The session.
    run: Run,
    /// The machine.
    host: Host,
    /// The llm-bench that measured.
    build: Build,
    /// The model file; where the arms measured several, what these share.
    #[schemars(schema_with = "shared_model")]
    model: Value,
    /// What every arm was asked to do.
    workload: Workload,
    /// One engine in one configuration each.
    arms: Vec<Arm>,
    /// Each arm against the baseline arm, metric by metric.
    #[serde(default, deserialize_with = "of_known_metrics")]
    comparisons: Vec<Comparison>,
    /// What a reader must know before quoting a number.
    #[serde(default)]
    warnings: Vec<Warning>,
}

/// The JSON Schema of a result file, as docs/result.schema.json has it.
pub fn json_schema() -> Value {
    schemars::schema_for!(Stored).to_value()
}

/// A model of which every key may be absent.
fn shared_model(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Model::json_schema(generator);
    schema.remove("required");
    schema
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let model = shared(&self.models()).map_err(serde::ser::Error::custom)?;
        Written {
            schema: &self.schema,
            run: &self.run,
            host: &self.host,
            build: &self.build,
            model,
            workload: &self.workload,
            arms: &self.arms,
            comparisons: &self.comparisons,
            warnings: &self.warnings,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let s = Stored::deserialize(deserializer)?;
        let own = s.arms.iter().find_map(|arm| arm.point.model_file.clone());
        let model = match own {
            Some(first) => first,
            None => serde_json::from_value(s.model)
                .map_err(|e| serde::de::Error::custom(format_args!("model: {e}")))?,
        };
        let mut record = Self {
            schema: s.schema,
            run: s.run,
            host: s.host,
            build: s.build,
            model,
            workload: s.workload,
            arms: s.arms,
            comparisons: s.comparisons,
            warnings: s.warnings,
        };
        place_arms(&mut record);
        Ok(record)
    }
}

/// The fields that all models have, with the same value.
fn shared(models: &[&Model]) -> serde_json::Result<Map<String, Value>> {
    let mut values = models.iter().map(serde_json::to_value);
    let Some(Value::Object(mut common)) = values.next().transpose()? else {
        return Ok(Map::new());
    };
    for value in values {
        let value = value?;
        common.retain(|key, known| value.get(key) == Some(known));
    }
    Ok(common)
}

/// Leaves out those of metrics that a newer version added: analysis makes comparisons anew.
fn of_known_metrics<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Comparison>, D::Error> {
    let all = Vec::<Value>::deserialize(from)?;
    let known = |c: &Value| {
        c.get("metric").and_then(|m| m.as_str()).is_none_or(|m| m.parse::<Metric>().is_ok())
    };
    let known = all.into_iter().filter(known).map(serde_json::from_value);
    known.collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

/// Gives arms of a file without points theirs: one model, one device, one number of threads.
fn place_arms(record: &mut Record) {
    let config = &record.run.config;
    let device = config.get("device").and_then(Value::as_str).and_then(|d| d.parse().ok());
    let threads = config.get("threads").and_then(Value::as_u64).and_then(|n| n.try_into().ok());
    for arm in record.arms.iter_mut().filter(|arm| arm.point == Point::default()) {
        arm.point = Point {
            model: record.model.name.clone(),
            quant: record.model.quant.clone(),
            engine: arm.engine.clone(),
            device,
            threads,
            ..Point::default()
        };
    }
}

impl Record {
    /// Writes the record beside its final name, syncs it and renames it: a reader sees the old
    /// file or the new one, never half of one.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        write_atomically(path, &json)
    }

    /// Reads a record of this schema.
    pub fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .with_context(|| format!("cannot read {}", path.display()))?;
        if bytes.len() as u64 > MAX_FILE {
            bail!(
                "{}: expected a result file of `llm-bench run`, found more than {MAX_FILE} bytes",
                path.display()
            );
        }
        // Windows puts a byte-order mark before what is saved again there.
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let value: serde_json::Value = serde_json::from_slice(text)
            .with_context(|| format!("{} is not JSON", path.display()))?;
        match value.get("schema").and_then(|s| s.as_str()) {
            Some(SCHEMA) => {}
            Some(other) => bail!(
                "{}: schema {other:?}, expected {SCHEMA:?}; read it with the llm-bench that wrote it",
                path.display()
            ),
            None => bail!(
                "{}: no \"schema\" field; expected a result file of `llm-bench run`",
                path.display()
            ),
        }
        serde_json::from_value(value)
            .with_context(|| format!("{} does not have the form of {SCHEMA}", path.display()))
    }
}

/// Writes a whole file or nothing: temporary file in the same folder, fsync, rename.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let attempt = || -> std::io::Result<()> {
        // The rename would put the file in the place of a device node.
        if path.metadata().is_ok_and(|m| !m.is_file()) {
            return Err(std::io::Error::other("expected a file, found a folder or a device"));
        }
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{self, CANDLE};
    use crate::device::Device;

    #[test]
    fn arms_over_several_files_keep_their_own_and_the_record_what_they_share() {
        let mut record = testing::empty();
        let other = Model { quant: "Q8_0".into(), sha256: "88".into(), ..record.model.clone() };
        record.arms = [record.model.clone(), other.clone()]
            .map(|model| {
                let mut arm = testing::arm(&CANDLE, 1);
                arm.point.quant.clone_from(&model.quant);
                arm.point.model_file = Some(model);
                arm
            })
            .to_vec();
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["model"]["name"], record.model.name);
        assert!(json["model"].get("quant").is_none() && json["model"].get("sha256").is_none());
        let back: Record = serde_json::from_value(json).unwrap();
        assert_eq!(back, record);
        assert_eq!(back.model_of(&back.arms[1]), &other);
        assert_eq!(back.models().len(), 2);
    }

    #[test]
    fn arms_of_a_file_without_points_get_them_from_its_settings() {
        let mut record = testing::empty();
        record.arms = vec![testing::arm(&CANDLE, 1)];
        record.run.config = serde_json::json!({"device": "cpu", "threads": 2});
        let mut json = serde_json::to_value(&record).unwrap();
        json["arms"][0].as_object_mut().unwrap().remove("point");
        let back: Record = serde_json::from_value(json).unwrap();
        let point = &back.arms[0].point;
        assert_eq!((point.device, point.threads), (Some(Device::Cpu), Some(2)));
        assert_eq!((&point.quant, &point.engine), (&record.model.quant, &back.arms[0].engine));
        assert!(point.model_file.is_none());
    }
}
