//! `instruments ...` as typed.

use std::path::PathBuf;

use clap::Subcommand;

const LOAD: &str = "\
The file has columns separated by comma, semicolon, tab or pipe, or it is JSON:
one object per line, or one list. The command knows NASDAQ's own files (their
test issues become not tradable), S&P 500 constituents (Symbol, Security), and
columns with the names of the fields: symbol, name, status, tick, lot,
max_quantity, clip_size, max_notional, collar_bps, limit_band_bps, band_bps,
short_ok, short_margin_bps, fee_bps, half_spread_bps, house, house_max,
currency, test_issue. Columns with other names are ignored, and named.

A missing column or an empty cell keeps the present value of the field. A JSON
null sets the field back to its default. The command prints the fields that
change, and writes only listings that change.

Wrong rows are named with their line and skipped: cells without a column, a
quote that is not closed, a symbol that comes twice.

Exit code: 0 done; 1 some rows were skipped; the others are loaded.

Examples:
  echo '{\"symbol\":\"AAPL\"}' | processor instruments load - \\
      --brokers localhost:9092
  processor instruments load nasdaqlisted.txt --brokers localhost:9092";

const HALT: &str = "\
New orders are refused with SYMBOL_HALTED, and nothing trades. Cancels pass. Use
--cancel-only for symbols that will not open again; its effect is the same.
The other fields of the listing stay. `instruments load` opens the symbol again
only from a file with the column `status`.

Exit code: 0 done, or halted before; 1 some symbols are not listed, and are
named; the others are halted.

Example:
  processor instruments halt AAPL MSFT --brokers localhost:9092";

const RESUME: &str = "\
Exit code: 0 done, or open before; 1 some symbols are not listed or are
delisted, and are named; the others are open.

Example:
  processor instruments resume AAPL --brokers localhost:9092";

/// `instruments ...`
#[derive(Debug, Subcommand)]
pub enum Instruments {
    /// Add or change listings from a file; `-` reads stdin
    #[command(after_help = LOAD)]
    Load {
        /// File with columns or JSON
        file: PathBuf,
        /// Each row is a whole listing: fields that the row does not have get their defaults. The
        /// status stays, unless the row has one
        #[arg(long)]
        replace: bool,
    },
    /// Remove listings: cancel their open orders, and refuse new ones
    #[command(
        after_help = "Positions stay, and `instruments load` lists the symbol again. To stop trading\n\
for a while, use `instruments halt` instead.\n\n\
Exit code: 0 done; 1 some symbols were not listed, and are named; the others are\n\
delisted.\n\n\
Example:\n  processor instruments delist AAPL MSFT --brokers localhost:9092"
    )]
    Delist {
        /// Symbols
        #[arg(required = true, value_name = "SYMBOL")]
        symbols: Vec<String>,
    },
    /// Stop trading in symbols, and keep their open orders
    #[command(after_help = HALT)]
    Halt {
        /// Symbols
        #[arg(required = true, value_name = "SYMBOL")]
        symbols: Vec<String>,
        /// Set the status cancel_only instead of halted
        #[arg(long)]
        cancel_only: bool,
    },
    /// Open halted symbols again
    #[command(after_help = RESUME)]
    Resume {
        /// Symbols
        #[arg(required = true, value_name = "SYMBOL")]
        symbols: Vec<String>,
    },
    /// List all listings, with the fields that are not the default
    #[command(
        after_help = "Example:\n  processor instruments list --format json --brokers localhost:9092"
    )]
    List,
    /// Show one listing with all its fields
    #[command(after_help = "Example:\n  processor instruments show AAPL --brokers localhost:9092")]
    Show {
        /// Symbol
        symbol: String,
    },
}
