// Package tap writes the Test Anything Protocol to standard output.
//
// The validation programs import github.com/mndrix/tap-go, which Debian does not package: this file stands in for it at
// build time, with the functions that those programs call and the lines that they search for.
package tap

import (
	"encoding/json"
	"fmt"
)

// T numbers the results of one program; the copy that Todo returns goes on with the same number.
type T struct {
	next *int
	todo bool
}

// New returns a T whose first result has number 1.
func New() *T {
	first := 1
	return &T{next: &first}
}

// Header prints the version, and the plan where the number of tests is known already.
func (t *T) Header(tests int) {
	fmt.Println("TAP version 13")
	if tests > 0 {
		fmt.Printf("1..%d\n", tests)
	}
}

// AutoPlan prints the plan after the last result.
func (t *T) AutoPlan() {
	fmt.Printf("1..%d\n", *t.next-1)
}

// Todo returns a T whose results are marked as not expected to pass yet.
func (t *T) Todo() *T {
	return &T{next: t.next, todo: true}
}

// Ok prints one result.
func (t *T) Ok(passed bool, description string) {
	word, mark := "not ok", "-"
	if passed {
		word = "ok"
	}
	if t.todo {
		mark = "# TODO"
	}
	fmt.Printf("%s %d %s %s\n", word, *t.next, mark, description)
	*t.next++
}

// Pass prints a result that passed.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Fail prints a result that failed.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Skip prints results that were not looked for.
func (t *T) Skip(count int, description string) {
	for i := 0; i < count; i++ {
		fmt.Printf("ok %d # SKIP %s\n", *t.next, description)
		*t.next++
	}
}

// Diagnostic prints a comment.
func (t *T) Diagnostic(message string) { fmt.Printf("# %s\n", message) }

// Diagnosticf prints a formatted comment.
func (t *T) Diagnosticf(format string, args ...interface{}) { t.Diagnostic(fmt.Sprintf(format, args...)) }

// YAML prints a block with details of the last result, as JSON on one line: JSON is YAML.
func (t *T) YAML(message interface{}) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	fmt.Printf("  ---\n  %s\n  ...\n", text)
	return nil
}
