//! The exact text of every refusal: what is wrong, where, and what to try.

use outboard_core::ErrorKind;

use super::*;

/// The whole report, with the folder left out of paths.
fn report(folder: &Folder, error: &Error) -> String {
    error.report().replace(&format!("{}/", folder.0.path().display()), "")
}

/// As [`report`], without the key of the job, which must be named once.
fn report_of_job(folder: &Folder, error: &Error) -> String {
    let mut keys = error.context().iter().filter(|(what, _)| *what == "key");
    let (Some((_, key)), None) = (keys.next(), keys.next()) else { panic!("{}", error.report()) };
    report(folder, error).replace(&format!("\n  key: {key}"), "")
}

/// Refusal of a training file, after a change of the job.
fn refusal(bytes: impl AsRef<[u8]>, loss: &Loss, change: impl FnOnce(&mut Data)) -> String {
    let folder = Folder::new();
    let mut data = folder.data(bytes);
    change(&mut data);
    let error = read_training(&data, loss, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    report_of_job(&folder, &error)
}

fn number_refusal(bytes: impl AsRef<[u8]>) -> String {
    refusal(bytes, &Loss::Mse, |_| ())
}

/// Refusal of a file by the model of a training file with numbers in `a`, categories in `c` and classes in `y`.
fn later_refusal(bytes: &str) -> String {
    let folder = Folder::new();
    let mut data = folder.data("a,c,y\n0,u,no\n1e-30,v,yes\n");
    data.categorical = strings(&["c"]);
    data.normalize = Normalize::MinMax;
    let schema = read_training(&data, &cross_entropy(), 0).unwrap().schema;
    let path = folder.file("later.csv", bytes);
    let error = read_labelled(&path, None, &schema).unwrap_err();
    data.validation = Some(Validation::File(path));
    let in_training = read_training(&data, &cross_entropy(), 0).unwrap_err();
    assert_eq!(in_training.report(), error.clone().at("key", "data.validation").report());
    report(&folder, &error)
}

#[test]
fn files_that_hold_no_table() {
    let folder = Folder::new();
    let mut data = folder.data("");
    data.train = folder.0.path().join("no.csv");
    let error = read_training(&data, &Loss::Mse, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        report(&folder, &error),
        "cannot read no.csv: no such file or folder\n  file: no.csv\n  key: data.train\n  try: check the path"
    );
    data.train = folder.0.path().to_path_buf();
    assert_eq!(read_training(&data, &Loss::Mse, 0).unwrap_err().kind(), ErrorKind::InvalidRequest);

    for empty in ["", "\u{feff}", " \r\n\n"] {
        assert_eq!(
            number_refusal(empty),
            "the file is empty\n  file: train.csv\n  \
             try: give it a header line with the names of the columns, then one line for each row"
        );
    }
    assert_eq!(
        number_refusal("x,y\r\n\r\n"),
        "the file has a header, but no rows\n  file: train.csv\n  try: add rows below the header"
    );
    for binary in [&b"PK\x03\x04\0\0"[..], b"\xff\xfex\0,\0y\0"] {
        assert_eq!(
            number_refusal(binary),
            "the file is not a CSV file: it holds binary data\n  file: train.csv\n  \
             try: decompress or export it as CSV, in UTF-8"
        );
    }
    assert_eq!(
        number_refusal("x,y\n1,2\n"),
        "the file has 1 row, but training needs at least 2\n  file: train.csv\n  try: add rows to the file"
    );
    let split = |data: &mut Data| data.validation = Some(Validation::Fraction(0.5));
    assert_eq!(refusal("x,y\n1,2\n", &Loss::Mse, split), number_refusal("x,y\n1,2\n"));
}

#[test]
fn headers() {
    assert_eq!(
        number_refusal("x,y, x\n1,2,3\n"),
        "columns 1 and 3 have the same name, `x`\n  file: train.csv\n  column: x\n  try: rename one of them in the header"
    );
    assert_eq!(
        number_refusal(b"y,na\xefve\n1,2\n"),
        "the name of column 2 is not UTF-8 text\n  file: train.csv\n  try: save the file as UTF-8"
    );
    assert_eq!(
        number_refusal(",x,y\n0,1,2\n1,1,2\n"),
        "column 1 has no name\n  file: train.csv\n  \
         try: name it in the header, or, where it only counts rows, leave it out with `data.exclude = [\"\"]`"
    );
    let folder = Folder::new();
    let mut data = folder.data(",x,y\n0,1,2\n1,1,2\n");
    data.exclude = strings(&[""]);
    assert_eq!(read_training(&data, &Loss::Mse, 0).unwrap().train.x, [1., 1.]);
}

#[test]
fn names_that_the_file_does_not_have() {
    let wide = format!("{},y\n", (0..12).map(|i| format!("column{i}")).collect::<Vec<_>>().join(","));
    let named = |change: fn(&mut Data)| refusal(&wide, &Loss::Mse, change);
    assert_eq!(
        named(|data| data.target = Some("Colum3".into())),
        "`data.target` names `Colum3`, but the file has no such column\n  file: train.csv\n  column: Colum3\n  \
         try: use `column3`"
    );
    assert_eq!(
        named(|data| data.target = Some("price".into())),
        "`data.target` names `price`, but the file has no such column\n  file: train.csv\n  column: price\n  \
         try: use one of its columns: `column0`, `column1`, `column2`, `column3`, `column4`, `column5`, `column6`, \
         `column7`, `column8`, `column9` and 3 more"
    );
    let rest = "names `colunm5`, but the file has no such column\n  file: train.csv\n  column: colunm5\n  \
                try: use `column5`";
    assert_eq!(named(|data| data.features = Some(strings(&["colunm5"]))), format!("`data.features` {rest}"));
    assert_eq!(named(|data| data.exclude = strings(&["colunm5"])), format!("`data.exclude` {rest}"));
    assert_eq!(named(|data| data.categorical = strings(&["colunm5"])), format!("`data.categorical` {rest}"));
}

#[test]
fn features_that_make_no_sense() {
    let chosen = |change: fn(&mut Data)| refusal("x,y\n1,2\n3,4\n", &Loss::Mse, change);
    assert_eq!(
        chosen(|data| data.features = Some(strings(&["x", "y"]))),
        "`y` is the target, so it can't be in `data.features`\n  file: train.csv\n  column: y\n  \
         try: take it out of `data.features`, or name another `data.target`"
    );
    assert_eq!(
        chosen(|data| data.features = Some(strings(&["x", "x"]))),
        "`x` is in `data.features` twice\n  file: train.csv\n  column: x\n  try: take it out once"
    );
    let both = |data: &mut Data| {
        data.features = Some(strings(&["x"]));
        data.exclude = strings(&["x"]);
    };
    assert_eq!(
        refusal("x,y\n1,2\n3,4\n", &Loss::Mse, both),
        "`x` is in `data.features` and in `data.exclude`\n  file: train.csv\n  column: x\n  try: take it out of one of them"
    );
    let none = "no column is left to learn from\n  file: train.csv\n  \
                try: list fewer columns in `data.exclude`, or some in `data.features`";
    assert_eq!(chosen(|data| data.exclude = strings(&["x"])), none);
    assert_eq!(chosen(|data| data.features = Some(Vec::new())), none);
}

#[test]
fn cells_that_are_no_numbers() {
    let at = "\n  file: train.csv\n  row: 2\n  column: x\n  try: ";
    let cell = |cell: &str| number_refusal(format!("x,y\n1,2\n{cell},4\n"));
    let fix = "fix the cell, or list the column in `data.categorical` or `data.exclude`";
    assert_eq!(cell("red"), format!("line 3: `red` is not a number{at}{fix}"));
    assert_eq!(cell(&"long".repeat(20)), format!("line 3: `{}…` is not a number{at}{fix}", "long".repeat(10)));
    assert_eq!(cell("\"a\nb\""), format!("line 3: `a\\nb` is not a number{at}{fix}"));
    assert_eq!(cell("\"1,5\""), format!("line 3: `1,5` is not a number{at}write decimals with a point"));
    assert_eq!(
        cell(" "),
        format!(
            "line 3: the cell is empty{at}fill it in, remove the row, or train without the column (`data.exclude`)"
        )
    );
    assert_eq!(cell("NaN"), format!("line 3: `NaN` is not a number{at}fix the cell, or remove the row"));
    for text in ["inf", "-Infinity"] {
        assert_eq!(cell(text), format!("line 3: `{text}` is not finite{at}fix the cell, or remove the row"));
    }
    for text in ["3.5e38", "-1e999"] {
        let expected = format!("line 3: `{text}` is too large for a 32-bit float{at}use a larger unit for the column");
        assert_eq!(cell(text), expected);
    }
    assert_eq!(
        number_refusal(b"x,y\n1,2\ncaf\xe9,4\n"),
        format!("line 3: the cell is not UTF-8 text{at}save the file as UTF-8")
    );
    assert_eq!(
        number_refusal("x,y\n1,cat\n2,dog\n"),
        "line 2: `cat` is not a number\n  file: train.csv\n  row: 1\n  column: y\n  \
         try: fix the cell, or use `loss = \"cross_entropy\"` if the column holds classes"
    );
}

#[test]
fn lines_are_those_of_an_editor() {
    for (text, line) in
        [("x,y\r\n1,2\r\n\r\n\r\nno,4\r\n", 5), ("\u{feff}\nx,y\n\n1,\"2\n\"\nno,4", 6), ("x,y\n1,2\n\n\nno,4\n", 5)]
    {
        let report = number_refusal(text);
        assert!(
            report.starts_with(&format!("line {line}: `no` is not a number\n  file: train.csv\n  row: 2\n")),
            "{report}"
        );
    }
}

#[test]
fn rows_of_another_width() {
    let width = |row: &str| number_refusal(format!("x,y,z\n1,2,3\n{row}\n4,5,6\n"));
    let rest = "but the header has 3\n  file: train.csv\n  row: 2\n  try: check the delimiters and quotes on that line";
    assert_eq!(width("1,2,3,4"), format!("line 3: 4 cells, {rest}"));
    assert_eq!(width("1;2;3"), format!("line 3: 1 cell, {rest}"));
    assert_eq!(width("1,\"2,3"), format!("line 3: 2 cells, {rest}"));
}

#[test]
fn targets_that_are_no_classes() {
    let at = "\n  file: train.csv\n  column: y\n  try: ";
    let target = |loss: &Loss, labels: &[&str]| {
        let rows: String = labels.iter().map(|label| format!("1,{label}\n")).collect();
        refusal(format!("x,y\n{rows}"), loss, |_| ())
    };
    assert_eq!(
        target(&cross_entropy(), &["a", "a"]),
        format!("every row has the same label, `a`{at}add rows with another label, or check `data.target`")
    );
    assert_eq!(
        target(&cross_entropy(), &["1", "2", "01"]),
        format!("the labels `01` and `1` are the same number{at}write each label in one way throughout the file")
    );
    let prices: Vec<String> = (10..31).map(|i| format!("{i}.5")).collect();
    let prices: Vec<&str> = prices.iter().map(String::as_str).collect();
    assert_eq!(
        target(&cross_entropy(), &prices),
        format!(
            "21 different labels with decimals are no classes: `10.5`, `11.5`, `12.5`, `13.5`, `14.5`, `15.5`, `16.5`, \
             `17.5`, `18.5`, `19.5` and 11 more{at}use `loss = \"mse\"` if the column holds a quantity, else check \
             `data.target`"
        )
    );
    assert_eq!(
        target(&bce(), &["a", "a"]),
        format!(
            "`bce_with_logits` needs two labels, but the column has 1: `a`{at}\
             add rows with another label, or check `data.target`"
        )
    );
    assert_eq!(
        target(&bce(), &["10", "9", "11"]),
        format!(
            "`bce_with_logits` needs two labels, but the column has 3: `9`, `10`, `11`{at}use `loss = \
             \"cross_entropy\"` for several classes or `\"mse\"` for a quantity, else check `data.target`"
        )
    );
}

#[test]
fn too_many_labels_or_values() {
    let rows: String = (0..10_001).map(|i| format!("{i},k{i},0\n")).collect();
    let text = format!("x,c,y\n{rows}");
    assert_eq!(
        refusal(&text, &Loss::Mse, |data| data.categorical = strings(&["c"])),
        "line 10002: `k10000` is one too many: a column may have 10000 categories\n  file: train.csv\n  row: 10001\n  \
         column: c\n  try: leave the column out with `data.exclude`, or, if it holds numbers, take it out of \
         `data.categorical`"
    );
    let on_keys = |loss: &Loss| refusal(&text, loss, |data| data.target = Some("c".into()));
    let rest = "line 10002: `k10000` is one too many: a column may have 10000 classes\n  file: train.csv\n  row: 10001\n  \
                column: c\n  try: ";
    assert_eq!(
        on_keys(&cross_entropy()),
        format!("{rest}use `loss = \"mse\"` if the column holds a quantity, else check `data.target`")
    );
    assert_eq!(
        on_keys(&bce()),
        format!(
            "{rest}use `loss = \"cross_entropy\"` for several classes or `\"mse\"` for a quantity, else check `data.target`"
        )
    );
    let names: Vec<String> = (0..8).map(|i| format!("c{i}")).collect();
    let rows: String = (0..107_375).map(|i| format!("{}0\n", format!("{},", i % 10_000).repeat(8))).collect();
    assert_eq!(
        refusal(format!("{},y\n{rows}", names.join(",")), &Loss::Mse, |data| data.categorical = names.clone()),
        "107375 rows with 80000 inputs each are more than 8589934592 numbers\n  file: train.csv\n  \
         try: use fewer rows, or leave columns with many categories out with `data.exclude`"
    );
}

#[test]
fn a_quote_that_is_never_closed_takes_no_memory_for_the_rest() {
    let rest = "1,2\n".repeat(12 << 20);
    for (text, line) in [(format!("x,y\n1,2\n\n\"1,2\n{rest}"), 4), (format!("\"x,y\n{rest}"), 1)] {
        assert_eq!(
            refusal(text, &Loss::Mse, |_| {}),
            format!(
                "line {line}: the row has no end within 32 MiB\n  file: train.csv\n  try: close the quotes on that line"
            )
        );
    }
}

#[test]
fn later_files_that_do_not_fit() {
    assert_eq!(
        later_refusal("A,c,y\n1,u,no\n"),
        "the training data has a column `a`, but this file has not\n  file: later.csv\n  column: a\n  \
         try: rename `A` in its header, or add the column"
    );
    // A column that the model needs itself is not to be renamed.
    assert_eq!(
        later_refusal("c,y\nu,no\n"),
        "the training data has a column `a`, but this file has not\n  file: later.csv\n  column: a\n  \
         try: add the column to those it has: `c`, `y`"
    );
    assert_eq!(
        later_refusal("a,c,label\n1,u,no\n"),
        "the training data has a column `y`, but this file has not\n  file: later.csv\n  column: y\n  \
         try: add the column to those it has: `a`, `c`, `label`"
    );
    assert_eq!(
        later_refusal("a,c,y\n1,u,no\n1,u,maybe\n"),
        "line 3: `maybe` is not one of the classes of the training data: `no`, `yes`\n  file: later.csv\n  row: 2\n  \
         column: y\n  try: fix the cell, or train on data that has it too"
    );
    assert_eq!(
        later_refusal("a,c,y\n1,w,no\n"),
        "line 2: `w` is not one of the categories of the training data: `u`, `v`\n  file: later.csv\n  row: 1\n  \
         column: c\n  try: fix the cell, or train on data that has it too"
    );
    assert_eq!(
        later_refusal("a,c,y\nx,u,no\n"),
        "line 2: `x` is not a number\n  file: later.csv\n  row: 1\n  column: a\n  \
         try: fix the cell: the training data has numbers in this column"
    );
    assert_eq!(
        later_refusal("a,c,y\n1e38,u,no\n"),
        "1e38 is too far from the values of the training rows to be scaled\n  file: later.csv\n  row: 1\n  column: a\n  \
         try: fix the cell, or train with `normalize = \"none\"`"
    );
}

#[test]
fn a_hint_names_at_most_ten_labels() {
    let folder = Folder::new();
    let rows: String = (0..25).map(|i| format!("1,{i}\n")).collect();
    let schema = read_training(&folder.data(format!("x,y\n{rows}")), &cross_entropy(), 0).unwrap().schema;
    let error = read_labelled(&folder.file("later.csv", "x,y\n1,25\n"), None, &schema).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2: `25` is not one of the classes of the training data: `0`, `1`, `2`, `3`, `4`, `5`, `6`, `7`, `8`, `9` \
         and 15 more"
    );
}
