package pgcluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// superuser is the one role of every cluster.
const superuser = "postgres"

// initdbArgs make initdb as fast as possible. The nodes' own pg_hba.conf decides about authentication, not initdb.
var initdbArgs = []string{"-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"}

// filesName is a file next to a base's data folder with the number of files in that folder. A program that cleans temporary
// folders may have removed some files of an old base; the number shows that.
const filesName = "files"

// baseMu keeps the goroutines of one process from building the same base at the same time. Several processes may build it; the
// first rename decides which base is kept.
var baseMu sync.Mutex

// base is the folder of a new data directory from initdb. It is copied and never started itself.
type base struct{ dir string }

// prepareBase returns the base of this version from the cache. If the cache has none, it builds the base inside scratch and
// moves it to the cache. If the cache folder cannot be used, the base stays in scratch, for this cluster only.
func (pg *install) prepareBase(ctx context.Context, scratch string, logf func(string, ...any)) (base, error) {
	baseMu.Lock()
	defer baseMu.Unlock()
	cache, err := cacheDir(pg.account)
	if err != nil {
		logf("no cache of initdb's results: %v", err)
	}
	kept := base{filepath.Join(cache, "base-"+pg.version+"-"+pg.baseKey())}
	if err == nil {
		if _, err := os.Stat(kept.dir); err == nil {
			return kept, nil
		}
	}
	built := base{filepath.Join(scratch, "base")}
	if err := pg.buildBase(ctx, built); err != nil {
		return base{}, err
	}
	if cache == "" {
		return built, nil
	}
	if err := os.Rename(built.dir, kept.dir); err != nil {
		if _, lost := os.Stat(kept.dir); lost != nil {
			logf("keeping initdb's result for this cluster only: %v", err)
			return built, nil
		}
		return kept, os.RemoveAll(built.dir) // another process was first
	}
	return kept, nil
}

// baseKey identifies the programs and arguments that a base was made with.
func (pg *install) baseKey() string {
	sum := sha256.Sum256([]byte(pg.binDir + "\x00" + strings.Join(initdbArgs, "\x00")))
	return hex.EncodeToString(sum[:4])
}

func (pg *install) buildBase(ctx context.Context, b base) error {
	if err := mkdirFor(pg.account, b.dir); err != nil {
		return fmt.Errorf("pgcluster: %w", err)
	}
	args := append([]string{"-D", b.data()}, initdbArgs...)
	if _, err := pg.run(ctx, command{dir: b.dir, name: "initdb", args: args}); err != nil {
		return fmt.Errorf("pgcluster: %w", err)
	}
	return b.seal(pg.account)
}

// seal writes down how many files a finished base has.
func (b base) seal(a account) error {
	files := 0
	err := filepath.WalkDir(b.data(), func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files++
		}
		return err
	})
	if err == nil {
		err = writeFor(a, filepath.Join(b.dir, filesName), strconv.Itoa(files))
	}
	if err != nil {
		return fmt.Errorf("pgcluster: %w", err)
	}
	return nil
}

func (b base) data() string { return filepath.Join(b.dir, "data") }

// errBrokenBase says that the base in the cache had lost files. The base has been removed from the cache.
var errBrokenBase = errors.New("the cached result of initdb was incomplete")

// copyData makes dst, which does not exist yet, a copy of the data directory, owned by a.
func (b base) copyData(dst string, a account) error {
	want, err := os.ReadFile(filepath.Join(b.dir, filesName))
	files := 0
	if err == nil {
		files, err = copyTree(b.data(), dst, a)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && strconv.Itoa(files) != string(want) {
		err = fmt.Errorf("%w: %d files of %q in %s", errBrokenBase, files, want, b.dir)
		os.Rename(b.dir, dst+".incomplete") // into the cluster's folder; only one of several processes can succeed
	}
	if err != nil {
		return fmt.Errorf("pgcluster: %w", err)
	}
	return nil
}

// copyTree copies folders and regular files with their modes and gives them to a. It returns the number of files.
func copyTree(src, dst string, a account) (files int, err error) {
	err = filepath.WalkDir(src, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := dst + strings.TrimPrefix(path, src)
		if entry.IsDir() {
			return mkdirFor(a, target)
		}
		files++
		return copyFile(path, target, a)
	})
	return files, err
}

func copyFile(src, dst string, a account) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := a.own(dst); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// cacheDir returns the folder that keeps bases between runs, and makes it if it is missing. It belongs to the server's account.
// No other account may write there.
func cacheDir(a account) (string, error) {
	temp, err := tempDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(temp, fmt.Sprintf("hasql-pgcluster-%d", a.uid))
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		fresh, err := os.MkdirTemp(temp, "hasql-pgcluster-new-") // it gets its owner before its name
		if err != nil {
			return "", err
		}
		if err := errors.Join(a.own(fresh), os.Rename(fresh, dir)); err != nil {
			os.Remove(fresh) // another process was first; its folder is checked below
		}
	}
	return dir, ownedBy(dir, a)
}

// mkdirFor makes a folder that only a may enter.
func mkdirFor(a account, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return a.own(dir)
}

// writeFor replaces a file by one with this content, readable by a alone, in one step.
func writeFor(a account, path, content string) error {
	fresh := path + ".new"
	if err := os.WriteFile(fresh, []byte(content), 0o600); err != nil {
		return err
	}
	if err := a.own(fresh); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// own makes the account the owner of a file or folder. That needs root, and is necessary only for root.
func (a account) own(path string) error {
	if !a.assume {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}
