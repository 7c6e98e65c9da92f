//! `instruments ...` as typed.

use std::path::PathBuf;

use clap::Subcommand;

const LOAD: &str = "\
Reads files of columns separated by comma, semicolon, tab or pipe, JSON lines, and a JSON list. Understands NASDAQ's own files (test issues
become not tradable), S&P 500 constituents (Symbol, Security), and columns named like the fields: symbol,name,status,tick,lot,max_quantity,
clip_size,max_notional,collar_bps,limit_band_bps,band_bps,short_ok,short_margin_bps,fee_bps,
half_spread_bps,house,house_max,currency,test_issue. Other columns are named and left out.
What a file does not say stays as it is, and empty cells say nothing; a JSON null takes back what was said. With --replace a row is the whole
listing, but for its status, which only a column of that name changes. Changed fields are printed; what is as it was is not written again.
Rows that cannot be right are reported with their line and skipped (cells without a column, a quote that is not closed, a symbol that comes
twice); then the exit code is 1.

Examples:
  echo '{\"symbol\":\"AAPL\"}' | processor instruments load - --brokers localhost:9092
  processor instruments load nasdaqlisted.txt --brokers localhost:9092";

const HALT: &str = "\
Orders are refused with SYMBOL_HALTED, and nothing trades; with --cancel-only the same, for symbols that will not open again. Cancels pass.
All other fields of the listing stay as they are, and no file without a column `status` opens it again.

Exit code: 0 done, or it was so before; 1 some symbols are not listed, and are named; the others are halted.

Example: processor instruments halt AAPL MSFT --brokers localhost:9092";

const RESUME: &str = "\
Exit code: 0 done, or it was so before; 1 some symbols are not listed or are delisted, and are named; the others are open.

Example: processor instruments resume AAPL --brokers localhost:9092";

/// `instruments ...`
#[derive(Debug, Subcommand)]
pub enum Instruments {
    /// Load a file into what is there; `-` is stdin
    #[command(after_help = LOAD)]
    Load {
        /// The file
        file: PathBuf,
        /// Rows are whole listings: fields that they do not have go back to their defaults
        #[arg(long)]
        replace: bool,
    },
    /// Take listings away: open orders are cancelled, and further ones refused, until they are
    /// loaded again
    #[command(
        after_help = "Positions stay. To stop trading for a while, `instruments halt` the symbol instead.\n\
Exit code: 0 done; 1 some symbols were not listed, and are named; the others are delisted.\n\n\
Example: processor instruments delist AAPL MSFT --brokers localhost:9092"
    )]
    Delist {
        /// The symbols
        #[arg(required = true, value_name = "SYMBOL")]
        symbols: Vec<String>,
    },
    /// Stop trading in symbols, and change nothing else about them
    #[command(after_help = HALT)]
    Halt {
        /// The symbols
        #[arg(required = true, value_name = "SYMBOL")]
        symbols: Vec<String>,
        /// Set them to cancel_only
        #[arg(long)]
        cancel_only: bool,
    },
    /// Open symbols again that were halted
    #[command(after_help = RESUME)]
    Resume {
        /// The symbols
        #[arg(required = true, value_name = "SYMBOL")]
        symbols: Vec<String>,
    },
    /// All listings, with what is not the default
    #[command(
        after_help = "Example: processor instruments list --format json --brokers localhost:9092"
    )]
    List,
    /// One listing with all of its fields
    #[command(after_help = "Example: processor instruments show AAPL --brokers localhost:9092")]
    Show {
        /// The symbol
        symbol: String,
    },
}
